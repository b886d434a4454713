// What users of home-made helpers for backups around migrations do, from one end to the other, in a project on a branch.

import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import {
  backupInfo,
  cleanOldBackups,
  compare,
  createBackup,
  createSafetyBackup,
  dbkeep,
  listBackups,
  restoreBackup,
  verifyBackup,
} from "dbkeep";
import { World } from "./world.js";

const COMMIT = "4a58796c0ffee4a58796c0ffee4a58796c0ffee0";

/** Makes a project with two databases on a branch, and returns what calls there need. */
function project(world: World) {
  mkdirSync(world.path(".agentic-qe"));
  mkdirSync(world.path(".git/refs/heads"), { recursive: true });
  writeFileSync(world.path(".git/HEAD"), "ref: refs/heads/add-embeddings\n");
  writeFileSync(world.path(".git/refs/heads/add-embeddings"), COMMIT);
  world.sql("agentdb.db", "CREATE TABLE episodes (id INTEGER PRIMARY KEY, task TEXT)");
  world.sql(".agentic-qe/memory.db", "CREATE TABLE patterns (id TEXT PRIMARY KEY) WITHOUT ROWID");
  return { ...world.options, databases: ["agentdb.db", ".agentic-qe/memory.db"] };
}

test("twelve backups: metadata, list, verify, compare, size, and the last ten", async (t) => {
  const world = new World(t);
  const options = project(world);
  const timestamps: string[] = [];
  for (let day = 1; day <= 12; day += 1) {
    world.sql("agentdb.db", `INSERT INTO episodes (task) VALUES ('day ${day}')`);
    const now = `2025-01-${String(day).padStart(2, "0")}T12:00:00Z`;
    const env = { ...world.env, DBKEEP_TEST_NOW: now };
    timestamps.push((await createBackup({ ...options, env, verify: false })).timestamp);
  }
  assert.equal(timestamps[0], "20250101_120000");

  const listed = await listBackups(world.options);
  assert.deepEqual(
    listed.map((one) => one.timestamp),
    [...timestamps].reverse(),
  );
  assert.ok(listed.every((one) => one.files === 2 && one.size > 0));
  const [info] = await backupInfo("20250103_120000", world.options);
  assert.deepEqual(info?.git, { branch: "add-embeddings", commit: COMMIT });
  assert.deepEqual([info.user !== "", info.rows, info.integrity?.result], [true, 3, "ok"]);

  assert.equal((await verifyBackup("20250103_120000", world.options)).ok, 2);
  assert.deepEqual(await verifyBackup("all", world.options).then((all) => [all.ok, all.damaged]), [24, 0]);
  const since = await compare("20250103_120000", "current", world.options);
  assert.deepEqual(
    since.databases.map((one) => [one.left.database, one.same, one.tables[0]?.added]),
    [
      ["agentdb", false, 9],
      ["memory", true, 0],
    ],
  );

  // Point in time: the newest at or before a moment.
  const at = { at: new Date("2025-01-05T18:00:00Z"), database: "agentdb" };
  const then = await restoreBackup(at, { ...world.options, to: "then.db" });
  assert.equal(then.databases[0]?.moment.slice(0, 10), "2025-01-05");
  assert.equal(world.sql("then.db", "SELECT count(*) FROM episodes"), "5");

  const cleaned = await cleanOldBackups(10, world.options);
  assert.equal(cleaned.removed, 4, "two of each database");
  assert.deepEqual(
    (await listBackups(world.options)).map((one) => one.timestamp),
    timestamps.slice(2).reverse(),
  );
  const size = await dbkeep("size", [], world.options);
  assert.deepEqual(
    size.databases.map((one) => one.snapshots),
    [10, 10],
  );
});

test("migration with a backup before it goes back by timestamp when it fails", async (t) => {
  const world = new World(t);
  const options = project(world);
  const phases: string[] = [];
  const backup = await createSafetyBackup("add-embeddings", {
    ...options,
    onEvent: (event) => event.event === "phase" && phases.push(event.phase),
  });
  assert.ok(phases.length > 0);
  const migrate = () =>
    world.sql("agentdb.db", "ALTER TABLE episodes ADD COLUMN embedding BLOB; ALTER TABLE absent ADD COLUMN a");
  assert.throws(migrate, /no such table: absent/);
  const restored = await restoreBackup(backup.timestamp, { ...world.options, force: true });
  assert.deepEqual([restored.success, restored.timestamp, restored.filesRestored], [true, backup.timestamp, 2]);
  assert.equal(world.sql("agentdb.db", "SELECT group_concat(name) FROM pragma_table_info('episodes')"), "id,task");
});
