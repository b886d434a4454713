import { DbkeepError } from "./error.js";
import type { DbkeepEvent } from "./reports.js";

/** What every function takes. */
export interface CommonOptions {
  /** The binary; else `DBKEEP_BINARY`, else `dbkeep` on the PATH. */
  binary?: string | undefined;
  /** Where the binary is run: relative paths and `dbkeep.toml` are looked for there. The present directory else. */
  cwd?: string | undefined;
  /** Variables for the binary beside those of this process, as `DATABASE_URL` for the source `env:DATABASE_URL`. */
  env?: { [name: string]: string | undefined } | undefined;
  /** The configuration; else `DBKEEP_CONFIG`, else `dbkeep.toml`. */
  config?: string | undefined;
  /** The repository; else `DBKEEP_REPOSITORY`, else the configuration's, else `./backups`. */
  repository?: string | undefined;
  /** A file with the password of the repository. */
  passwordFile?: string | undefined;
  /** The password of the repository. It reaches the binary in its environment and never stands in a command line. */
  password?: string | undefined;
  /** Stops the operation where the repository and the databases are sound. */
  signal?: AbortSignal | undefined;
  /** Is told of every event, as `progress()` of what is returned. */
  onEvent?: ((event: DbkeepEvent) => void) | undefined;
  /**
   * `false`: a failure of the command is no rejection; `success` of the result is `false` and `error` says why. What
   * makes no sense or cannot be started is rejected all the same.
   */
  throwOnError?: boolean | undefined;
}

const PASSWORDS = [/^[a-z][a-z0-9+.-]*:\/\/[^/?#@:]*:[^@]*@/i, /(^|[?&\s])password\s*=/i];

/** Refuses a text for the command line, which other users of the machine can read, that has a password in it. */
export function withoutPassword(text: string, what: string): string {
  if (PASSWORDS.some((password) => password.test(text))) {
    throw new DbkeepError("usage", `${what} has a password in it`, {
      hint: "keep the URL in an environment variable, or give it in `env`, and name it as env:NAME",
    });
  }
  return text;
}

/** Returns the options of the command line that stand before every command. */
export function globalArguments(options: CommonOptions): string[] {
  const given = ["--json", "--progress=json"];
  if (options.config !== undefined) given.push(`--config=${options.config}`);
  return given;
}

/** Returns the environment of the binary. */
export function environment(options: CommonOptions): NodeJS.ProcessEnv {
  const variables: NodeJS.ProcessEnv = { ...process.env, ...options.env };
  if (options.repository !== undefined) variables.DBKEEP_REPOSITORY = options.repository;
  if (options.password !== undefined) {
    variables.DBKEEP_PASSWORD = options.password;
    // A file that is named for other calls would win.
    variables.DBKEEP_PASSWORD_FILE = undefined;
  }
  if (options.passwordFile !== undefined) variables.DBKEEP_PASSWORD_FILE = options.passwordFile;
  return variables;
}
