import type { DbkeepError } from "./error.js";
import { Operation } from "./operation.js";
import { type CommonOptions, withoutPassword } from "./options.js";
import type { BackupReport, DatabaseBackup, VerifyReport } from "./reports.js";
import { type Listener, run } from "./run.js";

/** How a backup is taken. */
export interface BackupOptions extends CommonOptions {
  /**
   * SQLite files, directories, names of the configuration, PostgreSQL URLs without a password, or `env:NAME` with the
   * name of a variable that holds a URL. All configured databases where it is left out.
   */
  databases?: string[] | undefined;
  /** The name in the repository, for a single database. */
  name?: string | undefined;
  /** Tags of the snapshots. */
  tags?: string[] | undefined;
  /** Why it is taken: `manual` by default. */
  reason?: string | undefined;
  /** Whether it is read back from the repository and proved afterwards: it is, unless this is `false`. */
  verify?: boolean | undefined;
  /** The integrity check of what was read: `quick` by default. */
  integrity?: "quick" | "full" | "none" | undefined;
  /** Whether all SQLite databases are taken at one instant. */
  atOnce?: boolean | undefined;
  /** Whether the first backup may make a repository with a random key. */
  newKey?: boolean | undefined;
  /** Whether the configured copies get what they lack: they do, unless this is `false`. */
  copies?: boolean | undefined;
  /** What is stored is always compressed; here for code that says so. */
  compress?: boolean | undefined;
}

/** What a backup came to. */
export interface BackupResult {
  /** `true`: a backup that failed is a rejection, unless `throwOnError` is `false`. */
  success: boolean;
  /** The session, `YYYYMMDD_HHMMSS`: what `restoreBackup` takes. Empty where nothing began. */
  timestamp: string;
  /** Where each database that was stored is. */
  files: string[];
  /** The bytes of the databases. */
  totalSize: number;
  /** The bytes that were added to the repository. */
  storedSize: number;
  /** What is stored is always compressed. */
  compressed: boolean;
  /** Whether it was read back and proved. */
  verified: boolean;
  /** What was done with each database. */
  databases: DatabaseBackup[];
  /** Why it failed. */
  error?: DbkeepError;
  /** All that the binary told. */
  report?: BackupReport;
}

/** Takes a backup of the named databases, or of all that are configured, and proves it. */
export function createBackup(options: BackupOptions = {}): Operation<BackupResult> {
  return new Operation((event) => backUp(options, { event }));
}

/**
 * Takes and proves a backup before something dangerous, which gets its name. Rejects unless every database is stored
 * and sound, whatever `throwOnError` says: what is dangerous must not begin then.
 */
export function createSafetyBackup(operation: string, options: BackupOptions = {}): Operation<BackupResult> {
  const tags = [...(options.tags ?? []), operation];
  const safe = { reason: "pre-migration", ...options, tags, verify: true, throwOnError: true };
  return new Operation((event) => backUp(safe, { event }));
}

async function backUp(options: BackupOptions, listener: Listener): Promise<BackupResult> {
  const stored = await run<BackupReport>(words(options), options, listener);
  let { error } = stored;
  const { session } = stored.report;
  let verified = false;
  if (options.verify !== false && error === undefined && session !== undefined) {
    const proof = await run<VerifyReport>(["verify", `--session=${session}`], options, listener);
    error = proof.error;
    verified = error === undefined && proof.report.damaged === 0;
  }
  if (error !== undefined && options.throwOnError !== false) throw error;
  return { ...resultOf(stored.report, verified), success: error === undefined, ...(error && { error }) };
}

function words(options: BackupOptions): string[] {
  const databases = (options.databases ?? []).map((one) => withoutPassword(one, "a database"));
  const given = ["backup", `--verify=${options.integrity ?? "quick"}`];
  if (options.name !== undefined) given.push(`--name=${options.name}`);
  if (options.reason !== undefined) given.push(`--reason=${options.reason}`);
  for (const tag of options.tags ?? []) given.push(`--tag=${tag}`);
  if (options.atOnce) given.push("--at-once");
  if (options.newKey) given.push("--new-key");
  if (options.copies === false) given.push("--copies=none");
  return [...given, "--", ...databases];
}

function resultOf(report: Partial<BackupReport>, verified: boolean): Omit<BackupResult, "success"> {
  const databases = report.databases ?? [];
  return {
    timestamp: report.session ?? "",
    files: databases.filter((one) => one.snapshot !== null).map((one) => one.source),
    totalSize: report.totals?.bytes_source ?? 0,
    storedSize: report.totals?.bytes_stored ?? 0,
    compressed: true,
    verified,
    databases,
    ...(report.session !== undefined && { report: report as BackupReport }),
  };
}
