// What the real binary prints is what docs/reference/json says, field by field.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import { BINARY, World } from "./world.js";

const SCHEMAS = join(process.cwd(), "../../docs/reference/json");

interface Schema {
  properties?: object;
  additionalProperties?: unknown;
}

/** Reads a schema in such a way that an object may have no field that is not described. */
function exact(name: string): ValidateFunction {
  const ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: true });
  const text = readFileSync(join(SCHEMAS, `${name}.json`), "utf8");
  const schema = JSON.parse(text, (_, value: Schema | null) =>
    value?.properties && value.additionalProperties === undefined ? { ...value, additionalProperties: false } : value,
  ) as Schema;
  return ajv.compile(schema);
}

const seen = new Set<string>();

function validate(name: string, document: unknown, what: string): void {
  seen.add(name);
  const matches = exact(name);
  assert.ok(matches(document), `${what}: ${JSON.stringify(matches.errors)}\n${JSON.stringify(document, null, 1)}`);
}

/** Runs the binary, expects an exit code, and compares document and events with their schemas. */
function run(world: World, exit: number, command: string, ...words: string[]): Record<string, unknown> {
  const line = ["--json", "--progress=json", ...command.split(" "), ...words];
  const env = { ...world.env, PATH: process.env.PATH, DBKEEP_PASSWORD_FILE: world.passwordFile };
  const ended = spawnSync(BINARY, line, { cwd: world.cwd, env, encoding: "utf8" });
  assert.equal(ended.status, exit, `${line.join(" ")}\n${ended.stdout}${ended.stderr}`);
  const document = JSON.parse(ended.stdout) as Record<string, unknown>;
  if ([0, 3, 4].includes(exit)) {
    validate(command.replace(" ", "-"), document, line.join(" "));
  } else {
    validate("error", { error: document.error }, line.join(" "));
    const { error: _, ...report } = document;
    if (Object.keys(report).length > 0) validate(command, document, line.join(" "));
  }
  // A guarded command prints there as well.
  const lines = ended.stderr.split("\n").filter((text) => text.startsWith("{") || (text !== "" && command !== "guard"));
  for (const event of lines) {
    validate("events", JSON.parse(event), line.join(" "));
  }
  return document;
}

test("every command prints what its schema says", (t) => {
  const world = new World(t);
  world.users("app.db", 50);
  world.sql(
    "notes.db",
    "CREATE TABLE notes (body); INSERT INTO notes VALUES (x'00ff'), (9223372036854775807), (0.5), (NULL)",
  );
  writeFileSync(world.path("second.key"), "battery staple\n", { mode: 0o600 });
  const copies = '[[copies]]\nname = "second"\nlocation = "second"\n';
  const databases = '[databases.app]\nsqlite = "app.db"\n[databases.notes]\nsqlite = "notes.db"\n';
  writeFileSync(world.path("dbkeep.toml"), copies + databases, { mode: 0o600 });

  run(world, 10, "list");
  run(world, 2, "backup", "--no-such-option");
  run(world, 0, "init");
  run(world, 0, "backup", "--dry-run");
  run(world, 0, "backup");
  run(world, 3, "backup", "app.db", "absent.db");
  run(world, 1, "backup", "absent.db");
  run(world, 0, "show", "latest", "--database", "app");
  run(world, 0, "list");
  run(world, 0, "status");
  run(world, 0, "size");
  run(world, 0, "doctor");
  run(world, 0, "verify", "--all");
  run(world, 0, "check", "--read-data");
  run(world, 0, "drill");
  world.sql("app.db", "UPDATE users SET name = 'new' WHERE id = 7; CREATE INDEX by_name ON users (name)");
  world.sql("notes.db", "DELETE FROM notes; ALTER TABLE notes RENAME COLUMN body TO text");
  run(world, 4, "compare", "latest", "--database", "app", "--rows", "--exit-code");
  run(world, 0, "compare", "latest", "--database", "notes", "--rows");
  run(world, 0, "restore", "latest", "--database", "app", "--to", "restored.db");
  run(world, 0, "restore", "latest", "--database", "app", "--in-place", "--dry-run");
  run(world, 0, "restore", "latest", "--database", "app", "--in-place", "--yes");
  run(world, 0, "restore", "--session", "latest", "--to", "all");
  run(world, 1, "restore", "ffffffff", "--to", "none.db");
  run(world, 0, "guard", "app.db", "--", "sqlite3", "app.db", "DELETE FROM users WHERE id = 1");
  run(world, 1, "guard", "app.db", "--", "sqlite3", "-bail", "app.db", "DELETE FROM users; SELECT absent");
  run(world, 0, "guard", "--resume");
  run(world, 0, "export", "latest", "--database", "app", "--out", "plain", "--format", "json");
  run(world, 0, "export", "--session", "latest", "--out", "bundle");
  run(world, 0, "verify", "bundle");
  run(world, 0, "verify", "plain");
  run(world, 0, "copy", "--to", "./third");
  run(world, 0, "pin", "latest", "--database", "app");
  run(world, 0, "unpin", "latest", "--database", "app");
  run(world, 0, "forget", "--dry-run");
  run(world, 0, "forget", "latest~1", "--database", "app");
  run(world, 0, "clean", "1");
  run(world, 0, "prune", "--grace", "0s");
  const added = run(world, 0, "key add", "--new-password-file", "second.key");
  run(world, 0, "key list");
  run(world, 0, "key remove", String(added.id));
  run(world, 0, "key show-recovery");
  run(world, 0, "config check");
  run(world, 0, "config show");
  run(world, 0, "config example");
  run(world, 0, "completions", "bash");
  run(world, 0, "man", "pages");
  run(world, 0, "demo", "demo");

  const all = readdirSync(SCHEMAS).map((name) => name.replace(".json", ""));
  assert.deepEqual([...seen].sort(), all.sort());
});
