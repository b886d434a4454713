// Makes dist/: the package as ES modules and as CommonJS, with its types.

import { execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";

process.chdir(new URL("..", import.meta.url).pathname);
rmSync("dist", { recursive: true, force: true });
for (const [project, folder, type] of [
  ["tsconfig.json", "dist/esm", "module"],
  ["tsconfig.cjs.json", "dist/cjs", "commonjs"],
]) {
  execFileSync("node_modules/.bin/tsc", ["-p", project], { stdio: "inherit" });
  writeFileSync(`${folder}/package.json`, `${JSON.stringify({ type })}\n`);
}
