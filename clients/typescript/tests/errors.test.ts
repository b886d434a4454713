import assert from "node:assert/strict";
import { chmodSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import * as imported from "dbkeep";
import { createBackup, DbkeepError, type DbkeepEvent, listBackups, OLDEST_BINARY, verifyBackup } from "dbkeep";
import { BINARY, World } from "./world.js";

async function failure(promise: Promise<unknown>): Promise<DbkeepError> {
  const error = await promise.then(
    () => assert.fail("it did not fail"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof DbkeepError, String(error));
  return error;
}

test("binary is found by option, by variable and on the PATH", async (t) => {
  const world = new World(t);
  world.users("app.db", 1);
  const { binary: _, ...options } = { ...world.options, databases: ["app.db"] };
  await createBackup({ ...options, binary: BINARY });
  await listBackups({ ...options, env: { ...world.env, DBKEEP_BINARY: BINARY } });
  world.script("dbkeep", `exec '${BINARY}' "$@"`);
  const path = `${world.cwd}:${process.env.PATH}`;
  assert.equal((await listBackups({ ...options, env: { ...world.env, PATH: path } })).length, 1);
  // The working directory alone is not searched, and a relative path is one from there.
  assert.equal((await listBackups({ ...options, binary: "./dbkeep" })).length, 1);
  const missing = await failure(listBackups({ ...options, env: { ...world.env, PATH: "/nowhere" } }));
  assert.deepEqual([missing.kind, missing.message], ["binary-missing", "there is no program dbkeep on the PATH"]);
  assert.match(missing.hint ?? "", /DBKEEP_BINARY/);
  const named = await failure(listBackups({ ...options, binary: "/nowhere/dbkeep" }));
  assert.deepEqual([named.kind, named.message], ["binary-missing", "there is no program /nowhere/dbkeep"]);
});

test("binary that is too old or another program is refused", async (t) => {
  const world = new World(t);
  const old = await failure(listBackups({ ...world.options, binary: world.script("old", "echo dbkeep 0.0.9") }));
  assert.equal(old.kind, "binary-too-old");
  assert.ok(old.message.endsWith(`is dbkeep 0.0.9, and ${OLDEST_BINARY} is needed`), old.message);
  const other = await failure(listBackups({ ...world.options, binary: world.script("other", "echo restic 0.18") }));
  assert.equal(other.kind, "binary-unusable");
  const broken = await failure(listBackups({ ...world.options, binary: world.script("broken", "exit 3") }));
  assert.equal(broken.kind, "binary-unusable");
});

test("errors carry what the binary says", async (t) => {
  const world = new World(t);
  world.users("app.db", 1);
  const absent = await failure(listBackups(world.options));
  assert.deepEqual([absent.kind, absent.exitCode, absent.name], ["no-repository", 10, "DbkeepError"]);
  assert.ok(absent.hint);
  await createBackup({ ...world.options, databases: ["app.db"] });
  const { passwordFile: _, ...options } = world.options;
  const wrong = await failure(listBackups({ ...options, password: "wrong" }));
  assert.deepEqual([wrong.kind, wrong.exitCode], ["wrong-password", 12]);
  assert.deepEqual(Object.keys(wrong.report as object), ["error"]);
  const returned = await verifyBackup("20200101_000000", { ...world.options, throwOnError: false });
  assert.equal(returned.success, false);
  assert.ok(returned.error instanceof DbkeepError);
});

test("password stands in no command line and wins over a file that is set", async (t) => {
  const world = new World(t);
  world.users("app.db", 1);
  const spy = world.script("spy", `echo "$@" >> '${world.path("lines")}'; exec '${BINARY}' "$@"`);
  const { passwordFile, ...options } = { ...world.options, binary: spy, databases: ["app.db"] };
  const env = { ...world.env, DBKEEP_PASSWORD_FILE: passwordFile };
  await createBackup({ ...options, env, password: "battery staple" });
  const wrong = await failure(listBackups({ ...options, env }));
  assert.equal(wrong.kind, "wrong-password");
  assert.equal((await listBackups({ ...options, password: "battery staple" })).length, 1);
  assert.ok(!readFileSync(world.path("lines"), "utf8").includes("battery"));

  // One in a URL is refused before anything is started.
  const lines = readFileSync(world.path("lines"), "utf8");
  for (const url of [
    "postgres://u:secret@host/shop",
    "postgresql+psycopg2://u:s/e@host/shop",
    "postgres://host/shop?password=secret",
    "host=a password=secret",
  ]) {
    const refused = await failure(createBackup({ ...options, databases: [url] }));
    assert.deepEqual([refused.kind, refused.message], ["usage", "a database has a password in it"]);
    assert.match(refused.hint ?? "", /env:NAME/);
  }
  assert.equal(readFileSync(world.path("lines"), "utf8"), lines);
});

test("names that look like options are none", async (t) => {
  const world = new World(t);
  world.users("--json.db", 2);
  const backup = await createBackup({ ...world.options, databases: ["--json.db"], name: "--name", tags: ["--tag"] });
  assert.deepEqual([backup.databases[0]?.name, backup.databases[0]?.rows], ["--name", 2]);
  assert.deepEqual((await listBackups(world.options))[0]?.metadata.tags, ["--tag"]);
});

test("progress is iterated over, to the failure at its end", async (t) => {
  const world = new World(t);
  world.users("app.db", 100);
  const options = { ...world.options, databases: ["app.db"] };
  const heard: DbkeepEvent[] = [];
  const backup = createBackup({ ...options, onEvent: (event) => heard.push(event) });
  const seen: DbkeepEvent[] = [];
  for await (const event of backup.progress()) seen.push(event);
  assert.equal((await backup).success, true);
  assert.deepEqual(seen, heard);
  assert.ok(seen.some((event) => event.event === "step"));
  const last = seen.filter((event) => event.event === "progress").at(-1);
  assert.ok(last && last.total > 0 && last.done === last.total, JSON.stringify(last));

  const failed = createBackup({ ...options, databases: ["absent.db"] });
  const read = async () => {
    for await (const event of failed.progress()) assert.ok(event);
  };
  const error = await failure(read());
  assert.equal(await failure(failed), error);
});

test("abort asks the binary to stop and waits for it", async (t) => {
  const world = new World(t);
  world.users("app.db", 100);
  const { passwordFile, ...options } = { ...world.options, databases: ["app.db"] };
  await createBackup({ ...options, passwordFile });
  // The binary waits for its password until it was told to stop.
  const ask = `touch asked; until [ -e go ]; do sleep 0.02; done; cat '${passwordFile}'`;
  writeFileSync(world.path("dbkeep.toml"), `[repository]\npassword-command = ["sh", "-c", "${ask}"]\n`, {
    mode: 0o600,
  });
  const controller = new AbortController();
  const backup = createBackup({ ...options, signal: controller.signal });
  const state = { ended: false };
  backup.catch(() => {
    state.ended = true;
  });
  while (!existsSync(world.path("asked")) && !state.ended) await sleep(10);
  assert.equal(state.ended, false);
  controller.abort(new Error("the user went away"));
  writeFileSync(world.path("go"), "");
  const error = await failure(backup);
  assert.deepEqual([error.kind, error.name, error.exitCode], ["interrupted", "AbortError", 130]);
  assert.equal((error.cause as Error).message, "the user went away");
  assert.equal((await listBackups({ ...options, passwordFile })).length, 1);

  const before = await failure(createBackup({ ...options, signal: controller.signal }));
  assert.deepEqual([before.kind, before.message], ["interrupted", "aborted before it began"]);
});

test("binary that is killed is told apart from one that fails", async (t) => {
  const world = new World(t);
  world.users("app.db", 1);
  const killed = world.script(
    "killed",
    `[ "$1" = --version ] && exec '${BINARY}' --version; echo why >&2; kill -9 $$`,
  );
  const error = await failure(createBackup({ ...world.options, binary: killed, databases: ["app.db"] }));
  assert.deepEqual([error.kind, error.hint, error.exitCode], ["crashed", "why", undefined]);
  assert.equal(error.message, "dbkeep ended with SIGKILL and without a document");
});

test("damaged backup is no yes", async (t) => {
  const world = new World(t);
  world.users("app.db", 1000);
  const options = { ...world.options, databases: ["app.db"] };
  const { timestamp } = await createBackup(options);
  const data = world.path("backups/data");
  const packs = readdirSync(data).flatMap((folder) =>
    readdirSync(join(data, folder)).map((name) => join(data, folder, name)),
  );
  // The largest pack holds what the databases hold.
  const [pack] = packs.sort((one, other) => statSync(other).size - statSync(one).size);
  const bytes = readFileSync(pack ?? "");
  bytes[100] = (bytes[100] ?? 0) ^ 1;
  chmodSync(pack ?? "", 0o600);
  writeFileSync(pack ?? "", bytes);
  const error = await failure(verifyBackup(timestamp, world.options));
  assert.deepEqual([error.kind, error.exitCode], ["finding", 4]);
  assert.match(error.message, /^app: /);
  assert.equal((error.report as { damaged: number }).damaged, 1);
  const returned = await verifyBackup("latest", { ...world.options, throwOnError: false });
  assert.deepEqual([returned.success, returned.damaged, returned.checked[0]?.status], [false, 1, "damaged"]);
});

test("package can be required", () => {
  const required = createRequire(import.meta.url)("dbkeep") as typeof imported;
  assert.deepEqual(Object.keys(required).sort(), Object.keys(imported).sort());
  assert.notEqual(required.createBackup, imported.createBackup);
});
