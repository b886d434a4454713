import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import {
  backupInfo,
  cleanOldBackups,
  compare,
  createBackup,
  createSafetyBackup,
  DbkeepError,
  dbkeep,
  listBackups,
  type reports,
  restoreBackup,
  verifyBackup,
} from "dbkeep";
import { World } from "./world.js";

/** Makes two databases and returns what a call on both needs. */
function two(world: World) {
  world.users("app.db", 3);
  world.sql("memory.db", "CREATE TABLE patterns (id TEXT PRIMARY KEY, confidence REAL)");
  return { ...world.options, databases: ["app.db", "memory.db"] };
}

test("backup is stored, proved, listed and described", async (t) => {
  const world = new World(t);
  const backup = await createBackup({
    ...two(world),
    reason: "manual",
    tags: ["first"],
    compress: true,
    verify: true,
  });
  // As code around home-made backups asks.
  if (!backup.success) throw new Error(`backup failed: ${backup.error}`);
  assert.match(backup.timestamp, /^\d{8}_\d{6}$/);
  assert.deepEqual(backup.files, ["app.db", "memory.db"]);
  assert.deepEqual([backup.compressed, backup.verified], [true, true]);
  assert.equal(backup.totalSize, backup.report?.totals.bytes_source);
  assert.deepEqual(
    backup.databases.map((one) => [one.name, one.status, one.rows, one.integrity]),
    [
      ["app", "ok", 3, "ok"],
      ["memory", "ok", 0, "ok"],
    ],
  );

  const [listed, ...others] = await listBackups(world.options);
  assert.equal(others.length, 0);
  assert.equal(listed?.timestamp, backup.timestamp);
  assert.equal(listed.files, 2);
  assert.equal(listed.size, backup.totalSize);
  assert.ok(Math.abs(Date.parse(listed.date) - Date.parse(backup.report?.started ?? "")) < 60_000);
  assert.deepEqual([listed.metadata.reason, listed.metadata.tags], ["manual", ["first"]]);
  assert.equal(listed.metadata.verified, true);
  assert.deepEqual(await listBackups({ ...world.options, tag: "another" }), []);

  const info = await backupInfo(backup.timestamp, world.options);
  assert.deepEqual(
    info.map((one) => one.database),
    ["app", "memory"],
  );
  assert.equal(info[0]?.session, backup.timestamp);
  const size = await dbkeep("size", [], world.options);
  assert.deepEqual(
    size.databases.map((one: reports.DatabaseSize) => [one.name, one.snapshots]),
    [
      ["app", 1],
      ["memory", 1],
    ],
  );
});

test("restore goes back to a timestamp and keeps what was there", async (t) => {
  const world = new World(t);
  const options = two(world);
  const backup = await createBackup(options);
  world.sql("app.db", "DELETE FROM users WHERE id > 1; UPDATE users SET name = 'wrong'");
  world.sql("memory.db", "DROP TABLE patterns");

  // Nothing happens without a confirmation.
  await assert.rejects(restoreBackup(backup.timestamp, world.options), {
    kind: "usage",
    message: "a restore over what is there needs a confirmation",
  });
  assert.equal(world.sql("app.db", "SELECT group_concat(name) FROM users"), "wrong");

  const back = await restoreBackup(backup.timestamp, { ...world.options, force: true });
  assert.deepEqual([back.success, back.timestamp, back.filesRestored], [true, backup.timestamp, 2]);
  assert.equal(world.sql("app.db", "SELECT group_concat(name) FROM users"), "user 1,user 2,user 3");
  assert.equal(world.sql("memory.db", "SELECT count(*) FROM patterns"), "0");

  // The restore itself can be undone.
  const [snapshot] = back.safetySnapshots;
  assert.equal(back.safetySnapshots.length, 2);
  const undone = await restoreBackup({ snapshot: snapshot ?? "" }, { ...world.options, force: true });
  assert.equal(undone.filesRestored, 1);
  assert.equal(undone.databases[0]?.database, "app");
  assert.equal(world.sql("app.db", "SELECT group_concat(name) FROM users"), "wrong");
});

test("restore goes beside the original, of one moment or one table", async (t) => {
  const world = new World(t);
  const options = two(world);
  const backup = await createBackup(options);
  world.sql("app.db", "DELETE FROM users");
  await createBackup(options);

  await restoreBackup(backup.timestamp, { ...world.options, to: "then" });
  assert.equal(world.sql("then/app.db", "SELECT count(*) FROM users"), "3");
  await restoreBackup(
    { snapshot: "latest~1", database: "app" },
    { ...world.options, to: "one.db", tables: ["users"] },
  );
  assert.equal(world.sql("one.db", "SELECT count(*) FROM users"), "3");
  const now = await restoreBackup({ at: new Date(), database: "app" }, { ...world.options, to: "now.db" });
  assert.deepEqual([now.filesRestored, now.databases[0]?.verified], [1, true]);
  assert.equal(world.sql("now.db", "SELECT count(*) FROM users"), "0");
  const latest = await restoreBackup("latest", { ...world.options, to: "latest" });
  assert.notEqual(latest.timestamp, backup.timestamp);
  assert.match(latest.timestamp, /^\d{8}_\d{6}$/);

  await assert.rejects(restoreBackup("20250116-120000", { ...world.options, force: true }), { kind: "usage" });
  await assert.rejects(restoreBackup("20250116_120000", { ...world.options, force: true }), (error: DbkeepError) => {
    assert.ok(error instanceof DbkeepError);
    assert.ok(error.message.includes("20250116_120000"), error.message);
    return error.hint !== undefined;
  });
});

test("differences since a backup are told", async (t) => {
  const world = new World(t);
  const { timestamp } = await createBackup(two(world));
  assert.equal((await compare(timestamp, "current", world.options)).same, true);
  world.sql("app.db", "UPDATE users SET name = 'new' WHERE id = 2; CREATE TABLE extra (a)");
  const changed = await compare(timestamp, "current", { ...world.options, rows: true });
  assert.equal(changed.same, false);
  const [app, memory] = changed.databases;
  assert.deepEqual([app?.left.database, memory?.left.database, memory?.same], ["app", "memory", true]);
  assert.deepEqual(
    app?.schema.added.map((one) => one.name),
    ["extra"],
  );
  const users = app.tables.find((table) => table.name === "users");
  assert.deepEqual([users?.changed, users?.rows[0]?.key], [1, { id: 2 }]);
  assert.deepEqual(users?.rows[0]?.columns, [{ name: "name", left: "user 2", right: "new" }]);
  await assert.rejects(compare("20250116_120000", "current", world.options), { kind: "no-snapshot" });
});

test("old backups are cleaned up to the last ones", async (t) => {
  const world = new World(t);
  const options = two(world);
  for (let number = 0; number < 4; number += 1) {
    world.sql("app.db", `INSERT INTO users (name) VALUES ('number ${number}')`);
    await createBackup({ ...options, verify: false });
  }
  const planned = await cleanOldBackups(3, { ...world.options, dryRun: true });
  assert.deepEqual([planned.removed, planned.kept], [2, 6]);
  const cleaned = await cleanOldBackups(3, world.options);
  assert.deepEqual([cleaned.success, cleaned.removed, cleaned.kept], [true, 2, 6]);
  assert.equal((await listBackups(world.options)).length, 3);
  assert.equal((await cleanOldBackups(undefined, world.options)).removed, 0);
  const all = await verifyBackup("all", world.options);
  assert.deepEqual([all.ok, all.damaged], [6, 0]);
});

test("safety backup has a name and rejects unless all of it is sound", async (t) => {
  const world = new World(t);
  const options = two(world);
  const backup = await createSafetyBackup("add-embeddings", options);
  assert.deepEqual([backup.success, backup.verified], [true, true]);
  const [listed] = await listBackups({ ...world.options, tag: "add-embeddings" });
  assert.deepEqual([listed?.timestamp, listed?.metadata.reason], [backup.timestamp, "pre-migration"]);

  writeFileSync(world.path("broken.db"), "this is no database");
  const broken = { ...options, databases: ["app.db", "broken.db"], throwOnError: false };
  await assert.rejects(createSafetyBackup("again", broken), (error: DbkeepError) => {
    assert.ok(error instanceof DbkeepError && error.message.includes("broken"), error.message);
    return true;
  });
});

test("backup that is partly done is a rejection with what is stored", async (t) => {
  const world = new World(t);
  const options = { ...two(world), databases: ["app.db", "absent.db"] };
  const failed = await createBackup({ ...options, throwOnError: false });
  assert.deepEqual([failed.success, failed.verified], [false, false]);
  const error = await createBackup(options).catch((error: unknown) => error);
  assert.ok(error instanceof DbkeepError);
  assert.equal(failed.error?.kind, error.kind);
  assert.ok(error.message.includes("absent.db"), error.message);
});

test("damaged database is stored, and the backup a rejection that says so", async (t) => {
  const world = new World(t);
  world.users("app.db", 3000);
  world.sql("app.db", "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE");
  const image = readFileSync(world.path("app.db"));
  image.fill(0xff, 8192, 12288);
  writeFileSync(world.path("app.db"), image);
  const error = await createBackup({ ...world.options, databases: ["app.db"] }).catch((error: unknown) => error);
  assert.ok(error instanceof DbkeepError);
  assert.deepEqual([error.kind, error.exitCode], ["finding", 4]);
  assert.match(error.message, /^app: damaged: /);
  const report = error.report as reports.BackupReport;
  assert.equal(report.databases[0]?.status, "corrupt");
  assert.equal((await listBackups(world.options))[0]?.timestamp, report.session);
});
