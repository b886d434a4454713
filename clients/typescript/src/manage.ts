import type { DbkeepError } from "./error.js";
import { Operation } from "./operation.js";
import type { CommonOptions } from "./options.js";
import type { CleanReport, ListReport, Reports, ShowReport, SnapshotRow, Verified, VerifyReport } from "./reports.js";
import { type Listener, run } from "./run.js";
import { sessionOf, type Which, wordsFor } from "./which.js";

/** Which backups are listed. */
export interface ListOptions extends CommonOptions {
  /** Only those of this database. */
  database?: string | undefined;
  /** Only those with this tag. */
  tag?: string | undefined;
  /** Only the newest so many snapshots. */
  last?: number | undefined;
}

/** A backup: what one session stored. */
export interface Backup {
  /** The session, `YYYYMMDD_HHMMSS`. */
  timestamp: string;
  /** When it was taken, RFC 3339. */
  date: string;
  /** How many databases it holds. */
  files: number;
  /** Their bytes. */
  size: number;
  /** What is known of it. */
  metadata: { reason: string | null; host: string; tags: string[]; verified: boolean; pinned: boolean };
  /** Each database. */
  databases: SnapshotRow[];
}

/** Lists the backups, newest first. Snapshots that other tools made belong to none. */
export function listBackups(options: ListOptions = {}): Operation<Backup[]> {
  return new Operation(async (event) => {
    const given = ["list"];
    if (options.database !== undefined) given.push(`--database=${options.database}`);
    if (options.tag !== undefined) given.push(`--tag=${options.tag}`);
    if (options.last !== undefined) given.push(`--last=${options.last}`);
    return bySession((await report<ListReport>(given, options, { event })).snapshots);
  });
}

function bySession(snapshots: SnapshotRow[]): Backup[] {
  const sessions = new Map<string, SnapshotRow[]>();
  for (const one of snapshots) {
    if (one.session === null) continue;
    sessions.set(one.session, [...(sessions.get(one.session) ?? []), one]);
  }
  for (const databases of sessions.values()) databases.sort(byName);
  return [...sessions].map(([timestamp, databases]) => ({
    timestamp,
    date: databases[0]?.time ?? "",
    files: databases.length,
    size: databases.reduce((sum, one) => sum + (one.bytes_source ?? 0), 0),
    metadata: {
      reason: databases[0]?.reason ?? null,
      host: databases[0]?.host ?? "",
      tags: [...new Set(databases.flatMap((one) => one.tags))],
      verified: databases.every((one) => one.verified !== null),
      pinned: databases.some((one) => one.pinned),
    },
    databases,
  }));
}

function byName(one: SnapshotRow, other: SnapshotRow): number {
  return (one.database ?? "") < (other.database ?? "") ? -1 : 1;
}

/** Tells all that is known of a backup: the manifest of each database, with git branch and commit, time and user. */
export function backupInfo(which: Which, options: CommonOptions = {}): Operation<ShowReport[]> {
  return new Operation(async (event) => {
    const session = sessionOf(which);
    if (session === undefined) return [await report<ShowReport>(["show", ...wordsFor(which)], options, { event })];
    const ids = await snapshotsOf(session, options, { event });
    const shown: ShowReport[] = [];
    for (const id of ids) shown.push(await report<ShowReport>(["show", "--", id], options, { event }));
    return shown;
  });
}

/** Returns the ids of the snapshots of a session, by the names of the databases. */
export async function snapshotsOf(session: string, options: CommonOptions, listener: Listener): Promise<string[]> {
  const { snapshots } = await report<ListReport>(["list", `--session=${session}`], options, listener);
  return snapshots.sort(byName).map((one) => one.id);
}

/** What a verification came to. */
export interface VerifyResult {
  /** `true`: what is damaged is a rejection, unless `throwOnError` is `false`. */
  success: boolean;
  /** How many snapshots kept their promise. */
  ok: number;
  /** How many did not. */
  damaged: number;
  /** Each snapshot. */
  checked: Verified[];
  /** What is damaged. */
  error?: DbkeepError;
}

/**
 * Proves that a backup can be restored: reads it back, compares every hash and row count and runs the full integrity
 * check. Without `which` the newest of each database, with `"all"` every one.
 *
 * It rejects where anything is damaged, so that nobody takes a result for a yes.
 */
export function verifyBackup(which?: Which, options: CommonOptions = {}): Operation<VerifyResult> {
  return new Operation(async (event) => {
    const named = which === undefined ? [] : which === "all" ? ["--all"] : wordsFor(which);
    const { report, error } = await run<VerifyReport>(["verify", ...named], options, { event });
    if (error !== undefined && options.throwOnError !== false) throw error;
    const { ok = 0, damaged = 0, checked = [] } = report;
    return { success: error === undefined, ok, damaged, checked, ...(error && { error }) };
  });
}

/** How old backups are cleaned up. */
export interface CleanOptions extends CommonOptions {
  /** Only those of this database. */
  database?: string | undefined;
  /** Only tells what would go. */
  dryRun?: boolean | undefined;
}

/** What a clean-up came to. */
export interface CleanResult {
  /** `true`: a failure is a rejection, unless `throwOnError` is `false`. */
  success: boolean;
  /** How many snapshots are gone, or would be. */
  removed: number;
  /** How many stay. */
  kept: number;
  /** Why it failed. */
  error?: DbkeepError;
  /** All that the binary told. */
  report?: CleanReport;
}

/**
 * Keeps the newest `keepLast` snapshots of each database and gives back the space of the others. The last good one and
 * those that are pinned always stay.
 */
export function cleanOldBackups(keepLast = 10, options: CleanOptions = {}): Operation<CleanResult> {
  return new Operation(async (event) => {
    const given = ["clean", `${keepLast}`];
    if (options.database !== undefined) given.push(`--database=${options.database}`);
    if (options.dryRun) given.push("--dry-run");
    const { report, error } = await run<CleanReport>(given, options, { event });
    if (error !== undefined && options.throwOnError !== false) throw error;
    return {
      success: error === undefined,
      removed: report.forgotten?.length ?? 0,
      kept: report.kept?.length ?? 0,
      ...(report.kept && { report: report as CleanReport }),
      ...(error && { error }),
    };
  });
}

/**
 * Runs any command of the binary and resolves to its document, as `dbkeep("size")`. `words` are its options and
 * arguments. Rejects where it does not end with 0.
 */
export function dbkeep<C extends keyof Reports>(
  command: C,
  words: string[] = [],
  options: CommonOptions = {},
): Operation<Reports[C]> {
  return new Operation((event) => report<Reports[C]>([...command.split(" "), ...words], options, { event }));
}

/** Runs a command that has to succeed. */
export async function report<R>(words: string[], options: CommonOptions, listener: Listener): Promise<R> {
  const { report, error } = await run<R>(words, options, listener);
  if (error !== undefined) throw error;
  return report as R;
}
