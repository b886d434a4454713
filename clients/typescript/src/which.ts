import { DbkeepError } from "./error.js";

/**
 * Which backup is meant.
 *
 * A text is the `timestamp` of a backup as `createBackup` and `listBackups` give it: a whole session,
 * `YYYYMMDD_HHMMSS`, or `latest`. An object means one database: a snapshot by the start of its id, `latest` or
 * `latest~N`, or the newest one at or before a moment (`"2 hours ago"`, `"2026-01-02 03:04"`, a `Date`).
 */
export type Which =
  | string
  | { snapshot: string; database?: string | undefined }
  | { at: string | Date; database?: string | undefined };

const TIMESTAMP = /^\d{8}_\d{6}$/;

/** Returns the session that is meant, where a whole one is. */
export function sessionOf(which: Which): string | undefined {
  if (typeof which !== "string") return undefined;
  if (which === "latest" || TIMESTAMP.test(which)) return which;
  throw new DbkeepError("usage", `${JSON.stringify(which)} is no timestamp of a backup`, {
    hint: "give the timestamp of a backup as listBackups() has it, or { snapshot: id }, or { at: time }",
  });
}

/** Returns how the command line names it. */
export function wordsFor(which: Which): string[] {
  const session = sessionOf(which);
  if (session !== undefined) return [`--session=${session}`];
  if (typeof which === "string") return [];
  const database = which.database === undefined ? [] : [`--database=${which.database}`];
  if ("snapshot" in which) return [...database, "--", which.snapshot];
  return [...database, `--at=${which.at instanceof Date ? which.at.toISOString() : which.at}`];
}

/** Returns what is told of it where no session is known. */
export function nameOf(which: Which): string {
  if (typeof which === "string") return which;
  if ("snapshot" in which) return which.snapshot;
  return which.at instanceof Date ? which.at.toISOString() : which.at;
}
