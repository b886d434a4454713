// Every block of code in docs/guide/typescript.md runs, in the order of the page.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { BINARY, World } from "./world.js";

const BLOCKS = join(process.cwd(), "build/guide");

test("guide works as printed", (t) => {
  const world = new World(t);
  world.users("app.db", 3);
  const env = { ...world.env, PATH: process.env.PATH, DBKEEP_BINARY: BINARY };
  const blocks = readdirSync(BLOCKS).filter((name) => name.endsWith(".js"));
  const said = blocks.sort().map((name) => {
    const ended = spawnSync(process.execPath, [join(BLOCKS, name)], { cwd: world.cwd, env, encoding: "utf8" });
    assert.deepEqual([ended.status, ended.stderr], [0, ""], `${name}:\n${ended.stdout}${ended.stderr}`);
    return ended.stdout;
  });
  assert.equal(said.length, 6);
  assert.equal(said[1], "[ [ 'users', [ 'mail' ] ] ]\n");
  assert.match(said[2] ?? "", /^(\d{8}_\d{6}): \d+ bytes of 1 databases\n\1 /);
  assert.match(said[2] ?? "", /nothing changed\n0 snapshots removed\n$/);
  assert.match(said[3] ?? "", /20200101_000000/);
  assert.match(said[4] ?? "", /\n\d{8}_\d{6}\n$/);
  assert.match(said[5] ?? "", /^\d+ \[ 'ok' \]\n$/);
});
