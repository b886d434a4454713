import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { DbkeepError, guard, listBackups, type reports, restoreBackup, resumeGuards } from "dbkeep";
import { World } from "./world.js";

/** Makes a database and returns what a call on it needs, with the lines that the command prints. */
function app(world: World) {
  world.users("app.db", 3);
  const lines: string[] = [];
  return { ...world.options, databases: ["app.db"], name: "rename", lines, onOutput: (line: string) => lines.push(line) };
}

const sqlite = (sql: string) => ["sqlite3", "-bail", "app.db", sql];

async function failure(promise: Promise<unknown>): Promise<DbkeepError> {
  const error = await promise.then(
    () => assert.fail("it did not fail"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof DbkeepError, String(error));
  return error;
}

test("command that works is told with what it changed", async (t) => {
  const world = new World(t);
  const { lines, ...options } = app(world);
  const sql = "ALTER TABLE users ADD COLUMN mail TEXT; DELETE FROM users WHERE id = 1; SELECT 'done';";
  const done = await guard(sqlite(sql), { ...options, checks: ["SELECT count(*) = 2 FROM users"], timeout: "1m" });
  assert.deepEqual([done.success, done.outcome, done.exit], [true, "succeeded", 0]);
  assert.deepEqual(lines, ["done"]);
  assert.deepEqual(done.databases[0]?.checks.map((check) => check.ok), [true]);
  const [users] = done.changes[0]?.tables ?? [];
  assert.deepEqual([users?.columns_added, users?.removed], [["mail"], 1]);
  // The way back is there all the same.
  const [listed] = await listBackups({ ...world.options, tag: "rename" });
  assert.equal(listed?.timestamp, done.timestamp);
  await restoreBackup(done.timestamp, { ...world.options, force: true });
  assert.equal(world.sql("app.db", "SELECT count(*) FROM users"), "3");
});

test("command that fails leaves the databases as they were", async (t) => {
  const world = new World(t);
  const { lines, ...options } = app(world);
  const sql = "DELETE FROM users; INSERT INTO absent VALUES (1);";
  const error = await failure(guard(sqlite(sql), options));
  assert.equal(error.kind, "command-failed");
  assert.match(error.message, /^the command failed: /);
  assert.match(error.hint ?? "", /as it was before/);
  const report = error.report as reports.GuardReport;
  assert.deepEqual([report.outcome, report.exit, report.databases[0]?.status], ["restored", error.exitCode, "restored"]);
  assert.match(lines.join("\n"), /no such table: absent/);
  assert.equal(world.sql("app.db", "SELECT count(*) FROM users"), "3");

  const kept = await guard(sqlite(sql), { ...options, onFailure: "keep", throwOnError: false });
  assert.deepEqual([kept.success, kept.outcome], [false, "kept"]);
  assert.match(kept.error?.hint ?? "", /kept/);
  assert.equal(world.sql("app.db", "SELECT count(*) FROM users"), "0");
});

test("check that does not hold brings the databases back", async (t) => {
  const world = new World(t);
  const options = app(world);
  const checks = ["SELECT count(*) > 0 FROM users"];
  const error = await failure(guard(sqlite("DELETE FROM users"), { ...options, checks }));
  assert.equal(error.kind, "check-failed");
  assert.equal((error.report as reports.GuardReport).check_failed, true);
  assert.equal(world.sql("app.db", "SELECT count(*) FROM users"), "3");
});

test("nothing begins without a command or without a backup", async (t) => {
  const world = new World(t);
  const options = app(world);
  assert.equal((await failure(guard([], options))).kind, "usage");
  const absent = await failure(guard(["touch", "ran"], { ...options, databases: ["absent.db"] }));
  assert.equal(absent.exitCode, 125);
  writeFileSync(world.path("broken.db"), "this is no database");
  await failure(guard(["touch", "ran"], { ...options, databases: ["app.db", "broken.db"] }));
  await failure(guard(["no-such-program"], options));
  const refused = await failure(guard(["touch", "ran"], { ...options, databases: ["postgres://u:p@h/d"] }));
  assert.equal(refused.message, "a database has a password in it");
  assert.equal(existsSync(world.path("ran")), false);
});

test("abort reaches the command, and the databases go back", async (t) => {
  const world = new World(t);
  const options = app(world);
  const script = world.script("migrate", "sqlite3 app.db 'DELETE FROM users'; touch begun; sleep 60");
  const controller = new AbortController();
  const guarding = guard([script], { ...options, signal: controller.signal });
  const state = { ended: false };
  guarding.catch(() => {
    state.ended = true;
  });
  while (!existsSync(world.path("begun")) && !state.ended) await sleep(10);
  assert.equal(state.ended, false);
  controller.abort();
  const error = await failure(guarding);
  assert.deepEqual([error.kind, (error.report as reports.GuardReport).outcome], ["interrupted", "restored"]);
  assert.equal(world.sql("app.db", "SELECT count(*) FROM users"), "3");
});

test("guard that was killed is explained, and finished as somebody decides", async (t) => {
  const world = new World(t);
  const options = app(world);
  const script = world.script("migrate", "sqlite3 app.db 'DELETE FROM users'; kill -9 $PPID");
  assert.equal((await failure(guard([script], options))).kind, "crashed");
  const refused = await failure(guard(["touch", "ran"], options));
  assert.match(refused.message, /an earlier guard did not end/);
  assert.equal(existsSync(world.path("ran")), false);

  const open = await failure(resumeGuards(world.options));
  assert.equal(open.exitCode, 125);
  assert.equal((open.report as { resumed: reports.GuardReport[] }).resumed.length, 1);
  assert.equal(world.sql("app.db", "SELECT count(*) FROM users"), "0", "nothing is done where it cannot be shown");
  const { resumed } = await resumeGuards({ ...world.options, databases: ["app.db"], undecided: "restore" });
  assert.deepEqual(resumed.map((one) => one.outcome), ["restored"]);
  assert.equal(world.sql("app.db", "SELECT count(*) FROM users"), "3");
  assert.deepEqual(await resumeGuards(world.options), { success: true, resumed: [] });
});
