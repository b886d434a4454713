// The example does what it says, for a migration that works and for one that fails half-way.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { listBackups } from "dbkeep";
import { BINARY, World } from "./world.js";

const MAIN = join(process.cwd(), "build/examples/migrate-with-backup/main.js");

/** Makes a project with two databases. */
function project(world: World): void {
  mkdirSync(world.path(".agentic-qe"));
  world.sql(
    "agentdb.db",
    `CREATE TABLE episodes (id INTEGER PRIMARY KEY, task TEXT, reward REAL);
     INSERT INTO episodes VALUES (1, 'generate tests', 0.75), (2, 'find flaky ones', 1.0)`,
  );
  world.sql(
    ".agentic-qe/memory.db",
    `CREATE TABLE patterns (id TEXT PRIMARY KEY, confidence REAL) WITHOUT ROWID;
     INSERT INTO patterns VALUES ('page object', 0.9)`,
  );
}

function migrate(world: World) {
  const env = {
    ...world.env,
    PATH: process.env.PATH,
    DBKEEP_BINARY: BINARY,
    DBKEEP_PASSWORD_FILE: world.passwordFile,
  };
  return spawnSync(process.execPath, [MAIN], { cwd: world.cwd, env, encoding: "utf8" });
}

test("migration that works leaves a backup from before it", async (t) => {
  const world = new World(t);
  project(world);
  const { status, stdout, stderr } = migrate(world);
  assert.deepEqual([status, stderr], [0, ""]);
  assert.equal(
    world.sql(".agentic-qe/memory.db", "SELECT group_concat(id || kind) FROM patterns"),
    "page objectui,retrynetwork",
  );
  const [backup, ...others] = await listBackups(world.options);
  assert.deepEqual([others.length, backup?.files, backup?.metadata.tags], [0, 2, ["add-embeddings"]]);
  for (const said of [
    `backup ${backup?.timestamp} is proved`,
    "step 2 of 2: patterns have a kind",
    "agentdb.episodes: 2 -> 2 rows, new column embedding",
    "memory.patterns: 1 -> 2 rows, new column kind",
    "done; 0 old snapshots removed",
  ]) {
    assert.ok(stdout.includes(said), `${said} is not in:\n${stdout}`);
  }
});

test("migration that fails half-way leaves the databases as they were", async (t) => {
  const world = new World(t);
  project(world);
  // The second step cannot work, and the first has changed a database by then.
  world.sql(".agentic-qe/memory.db", "ALTER TABLE patterns ADD COLUMN kind TEXT");
  const { status, stdout, stderr } = migrate(world);
  assert.equal(status, 1);
  assert.match(stderr, /duplicate column name: kind/);
  assert.match(stdout, /2 databases are as they were at \d{8}_\d{6}/);
  const columns = "SELECT group_concat(name) FROM pragma_table_info";
  assert.equal(world.sql("agentdb.db", `${columns}('episodes')`), "id,task,reward");
  assert.equal(world.sql(".agentic-qe/memory.db", `${columns}('patterns')`), "id,confidence,kind");
  assert.equal(world.sql("agentdb.db", "SELECT count(*), sum(reward) FROM episodes"), "2|1.75");
  const backups = await listBackups(world.options);
  assert.deepEqual(backups.map((one) => one.metadata.reason).sort(), ["pre-migration", "pre-restore"]);
});
