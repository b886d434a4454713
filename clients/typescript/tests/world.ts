// A place where the real binary runs with nothing of the machine around it.

import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { TestContext } from "node:test";

const named = process.env.DBKEEP_BINARY;
if (!named) throw new Error("DBKEEP_BINARY has to name the binary");

/** The real binary. */
export const BINARY = resolve(named);

for (const name of Object.keys(process.env)) {
  if (name.startsWith("DBKEEP_")) Reflect.deleteProperty(process.env, name);
}

/** A directory for one test, gone when it ends. */
export class World {
  readonly root = realpathSync(mkdtempSync(join(tmpdir(), "dbkeep-client-")));
  readonly cwd = join(this.root, "work");
  readonly passwordFile = join(this.root, "password");
  readonly env: { [name: string]: string };

  constructor(test: TestContext) {
    test.after(() => rmSync(this.root, { recursive: true, force: true }));
    for (const folder of ["work", "home"]) mkdirSync(join(this.root, folder));
    writeFileSync(this.passwordFile, "correct horse\n", { mode: 0o600 });
    this.env = { HOME: join(this.root, "home"), TZ: "UTC", DBKEEP_TEST_CHEAP_KEYS: "1" };
  }

  /** What every call needs. */
  get options() {
    return { binary: BINARY, cwd: this.cwd, env: this.env, passwordFile: this.passwordFile };
  }

  path(name: string): string {
    return join(this.cwd, name);
  }

  /** Runs SQL on a database below the working directory with the stock tool, and returns what it prints. */
  sql(name: string, sql: string): string {
    return execFileSync("sqlite3", [this.path(name), sql], { encoding: "utf8", stdio: "pipe" }).trim();
  }

  /** Makes a database with a table `users`. */
  users(name: string, rows: number): void {
    this.sql(
      name,
      `PRAGMA journal_mode = WAL; CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
       WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${rows})
       INSERT INTO users SELECT i, 'user ' || i FROM n;`,
    );
  }

  /** Makes a program below the working directory. */
  script(name: string, text: string): string {
    const path = this.path(name);
    writeFileSync(path, `#!/bin/sh\n${text}\n`);
    chmodSync(path, 0o755);
    return path;
  }
}
