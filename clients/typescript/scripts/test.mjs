// Compiles the tests and the examples against the built package and runs them with node:test.
//
// They run the real binary, built with the feature `fault-injection`: DBKEEP_BINARY says where it is.

import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";

process.chdir(new URL("..", import.meta.url).pathname);
if (!process.env.DBKEEP_BINARY) {
  console.error("DBKEEP_BINARY has to name the binary: cargo build -p dbkeep --features fault-injection");
  process.exit(2);
}
rmSync("build", { recursive: true, force: true });
execFileSync("node_modules/.bin/tsc", ["-p", "tsconfig.test.json"], { stdio: "inherit" });
await import("./guide.mjs");
const files = readdirSync("build/tests").filter((name) => name.endsWith(".test.js"));
const run = spawnSync(process.execPath, ["--test", ...files.map((name) => `build/tests/${name}`)], {
  stdio: "inherit",
});
process.exit(run.status ?? 1);
