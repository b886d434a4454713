import { DbkeepError } from "./error.js";
import { Operation } from "./operation.js";
import { type CommonOptions, withoutPassword } from "./options.js";
import type { RestoreOutcome, RestoreReport } from "./reports.js";
import { type Listener, run } from "./run.js";
import { nameOf, type Which, wordsFor } from "./which.js";

/** How a backup is restored. */
export interface RestoreOptions extends CommonOptions {
  /** Confirms that what is there now is overwritten. Without it and without `to` nothing is done. */
  force?: boolean | undefined;
  /** Restores beside the original: a file, or a directory for a whole session, that is made. */
  to?: string | undefined;
  /** Restores only these tables. */
  tables?: string[] | undefined;
  /** Whether what is there now is backed up first: it is, unless this is `false`. */
  safetyBackup?: boolean | undefined;
  /** Overrides a refusal that names `--force`, as that sessions of a PostgreSQL database are in the way. */
  overrideRefusal?: boolean | undefined;
  /** Whether the integrity check is run on what was restored, and for PostgreSQL whether every row is compared; default `true`. */
  verify?: boolean | undefined;
}

/** What a restore came to. */
export interface RestoreResult {
  /** `true`: a restore that failed is a rejection, unless `throwOnError` is `false`. */
  success: boolean;
  /** What was restored, as it was named. */
  timestamp: string;
  /** How many databases were restored. */
  filesRestored: number;
  /** The snapshots of what was there before: `restoreBackup({ snapshot }, { force: true })` goes back. */
  safetySnapshots: string[];
  /** What was done with each database. */
  databases: RestoreReport[];
  /** Why it failed. */
  error?: DbkeepError;
  /** All that the binary told. */
  report?: RestoreOutcome;
}

/**
 * Brings databases back: a whole session by its timestamp, or one database (see `Which`). They go into their places,
 * also under applications that use them, after a safety backup of what is there; `{ force: true }` confirms that. Each
 * hash is compared while it is restored.
 */
export function restoreBackup(which: Which, options: RestoreOptions = {}): Operation<RestoreResult> {
  return new Operation((event) => restore(which, options, { event }));
}

async function restore(which: Which, options: RestoreOptions, listener: Listener): Promise<RestoreResult> {
  const { report, error } = await run<RestoreOutcome>(words(which, options), options, listener);
  if (error !== undefined && options.throwOnError !== false) throw error;
  const databases = restored(report);
  return {
    success: error === undefined,
    timestamp: "session" in report ? report.session : nameOf(which),
    filesRestored: databases.filter((one) => !one.error).length,
    safetySnapshots: databases.flatMap((one) => one.safety_snapshot ?? []),
    databases,
    ...(databases.length > 0 && { report: report as RestoreOutcome }),
    ...(error && { error }),
  };
}

function restored(report: Partial<RestoreOutcome>): RestoreReport[] {
  if ("restores" in report) return report.restores ?? [];
  return "snapshot" in report && report.snapshot ? [report as RestoreReport] : [];
}

function words(which: Which, options: RestoreOptions): string[] {
  const given = ["restore"];
  if (options.to !== undefined) {
    given.push(`--to=${withoutPassword(options.to, "the target")}`);
  } else if (options.force) {
    given.push("--in-place", "--yes");
  } else {
    throw new DbkeepError("usage", "a restore over what is there needs a confirmation", {
      hint: "give { force: true } to overwrite it after a safety backup, or { to } to restore beside it",
    });
  }
  for (const table of options.tables ?? []) given.push(`--table=${table}`);
  if (options.safetyBackup === false) given.push("--no-safety-backup");
  if (options.overrideRefusal) given.push("--force");
  if (options.verify === false) given.push("--verify=none");
  return [...given, ...wordsFor(which)];
}
