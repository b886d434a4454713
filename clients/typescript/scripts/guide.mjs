// Takes the blocks of code out of docs/guide/typescript.md, for a test that runs them: build/guide/1.js and so on.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

process.chdir(new URL("..", import.meta.url).pathname);
const page = readFileSync("../../docs/guide/typescript.md", "utf8");
const blocks = [...page.matchAll(/^```ts\n(.*?)^```$/gms)].map((match) => match[1]);
rmSync("build/guide-source", { recursive: true, force: true });
mkdirSync("build/guide-source", { recursive: true });
for (const [number, block] of blocks.entries()) writeFileSync(`build/guide-source/${number + 1}.ts`, block);
const config = {
  extends: "../../tsconfig.json",
  compilerOptions: { rootDir: ".", outDir: "../guide", declaration: false },
  include: ["."],
};
writeFileSync("build/guide-source/tsconfig.json", JSON.stringify(config));
execFileSync("node_modules/.bin/tsc", ["-p", "build/guide-source"], { stdio: "inherit" });
