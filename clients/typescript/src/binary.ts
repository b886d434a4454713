import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { delimiter, isAbsolute, join, resolve } from "node:path";
import { promisify } from "node:util";
import { DbkeepError } from "./error.js";
import { type CommonOptions, environment } from "./options.js";

/** The oldest binary that prints what this package reads. */
export const OLDEST_BINARY = "0.1.0";

const INSTALL =
  "install dbkeep (`cargo install --path crates/cli` in its sources), or say where it is with DBKEEP_BINARY";

/** Returns the path of the binary, after its version was looked at once. */
export async function findBinary(options: CommonOptions): Promise<string> {
  const variables = environment(options);
  const cwd = options.cwd ?? process.cwd();
  const named = options.binary ?? variables.DBKEEP_BINARY;
  const isNamed = named !== undefined && named !== "";
  const path = isNamed ? await given(named, variables, cwd) : await onPath(variables.PATH ?? "", cwd);
  await ensureUsable(path, variables);
  return path;
}

async function given(named: string, variables: NodeJS.ProcessEnv, cwd: string): Promise<string> {
  if (!named.includes("/")) return onPath(variables.PATH ?? "", cwd, named);
  const path = resolve(cwd, named);
  if (await isProgram(path)) return path;
  throw new DbkeepError("binary-missing", `there is no program ${path}`, { hint: INSTALL });
}

async function onPath(path: string, cwd: string, name = "dbkeep"): Promise<string> {
  for (const folder of path.split(delimiter)) {
    const candidate = join(isAbsolute(folder) ? folder : resolve(cwd, folder), name);
    if (await isProgram(candidate)) return candidate;
  }
  throw new DbkeepError("binary-missing", `there is no program ${name} on the PATH`, { hint: INSTALL });
}

async function isProgram(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}

const usable = new Map<string, number>();

/** Makes sure that a program is dbkeep and not too old; one that did not change since is not asked again. */
async function ensureUsable(path: string, variables: NodeJS.ProcessEnv): Promise<void> {
  const { mtimeMs } = await stat(path);
  if (usable.get(path) === mtimeMs) return;
  const version = await versionOf(path, variables);
  if (isOlder(version, OLDEST_BINARY)) {
    throw new DbkeepError("binary-too-old", `${path} is dbkeep ${version}, and ${OLDEST_BINARY} is needed`, {
      hint: INSTALL,
    });
  }
  usable.set(path, mtimeMs);
}

async function versionOf(path: string, env: NodeJS.ProcessEnv): Promise<string> {
  let said: string;
  try {
    said = (await promisify(execFile)(path, ["--version"], { env, timeout: 30_000 })).stdout;
  } catch (cause) {
    throw new DbkeepError("binary-unusable", `${path} could not be asked for its version`, { hint: INSTALL, cause });
  }
  const version = /^dbkeep (\d+\.\d+\.\d+)/.exec(said)?.[1];
  if (version === undefined) {
    throw new DbkeepError("binary-unusable", `${path} does not say that it is dbkeep`, { hint: INSTALL });
  }
  return version;
}

function isOlder(version: string, oldest: string): boolean {
  const [have, need] = [version, oldest].map((text) => text.split(".").map(Number));
  for (const place of [0, 1, 2]) {
    const difference = (have?.[place] ?? 0) - (need?.[place] ?? 0);
    if (difference !== 0) return difference < 0;
  }
  return false;
}
