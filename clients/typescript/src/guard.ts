import { DbkeepError } from "./error.js";
import { Operation } from "./operation.js";
import { type CommonOptions, withoutPassword } from "./options.js";
import type { DatabaseChanges, GuardedDatabase, GuardReport } from "./reports.js";
import { type Listener, run } from "./run.js";

/** How a command is guarded. */
export interface GuardOptions extends CommonOptions {
  /** The databases that it may change, as for `createBackup`. All configured ones where it is left out. */
  databases?: string[] | undefined;
  /** The name of what is done: the snapshots are tagged with it. */
  name?: string | undefined;
  /** What to do when it fails: bring the databases back, or leave them. `restore` by default. */
  onFailure?: "restore" | "keep" | undefined;
  /** Queries that have to give a value other than 0, false, "" and NULL afterwards; `NAME: SQL` asks one database. */
  checks?: string[] | undefined;
  /** How long it may take, as `90s` or `10m`. */
  timeout?: string | undefined;
  /** Is given each line that the command prints; standard error shows them where this is left out. */
  onOutput?: ((line: string) => void) | undefined;
}

/** What a guarded command came to. */
export interface GuardResult {
  /** `true`: a command that failed is a rejection, unless `throwOnError` is `false`. */
  success: boolean;
  /** The session of the backup from before: what `restoreBackup` takes. Empty where there is none. */
  timestamp: string;
  /** What the command exited with; `null` where it was never started. */
  exit: number | null;
  /** What became of the databases. */
  outcome: GuardReport["outcome"];
  /** Each database. */
  databases: GuardedDatabase[];
  /** What the command changed, for each database that could be compared. */
  changes: DatabaseChanges[];
  /** Why it failed. */
  error?: DbkeepError;
  /** All that the binary told. */
  report?: GuardReport;
}

/**
 * Runs a command that changes databases, as a migration: backs them up, proves that, and runs it only then. Where it
 * fails, the databases are brought back, unless somebody else has written to them meanwhile; what it left is kept as a
 * snapshot. Rejects with the kind `command-failed` or `check-failed` then, and `report.outcome` says what became of the
 * databases.
 */
export function guard(command: string[], options: GuardOptions = {}): Operation<GuardResult> {
  const line = options.onOutput ?? ((text: string) => process.stderr.write(`${text}\n`));
  return new Operation((event) => guarded(command, options, { event, line }));
}

/** How guards are finished that were killed. */
export interface ResumeOptions extends CommonOptions {
  /** The databases whose guards are meant. All guards of the repository where it is left out. */
  databases?: string[] | undefined;
  /**
   * What to do with all of them, whatever could be shown: bring the databases back, whoever else wrote, or leave them as
   * they are, also where one of several was back already. Where it is left out, what can be shown to be right is done,
   * and the call rejects where that is nothing.
   */
  undecided?: "restore" | "keep" | undefined;
}

/** What became of guards that were killed. */
export interface ResumeResult {
  /** `true`: where somebody has to decide the call rejects, unless `throwOnError` is `false`. */
  success: boolean;
  /** One entry a guard that had not ended; none where all had. */
  resumed: GuardReport[];
  /** Why one of them is still there. */
  error?: DbkeepError;
}

/**
 * Finishes guards that were killed, with the program or with the machine: until then the next one of their databases
 * is refused.
 */
export function resumeGuards(options: ResumeOptions = {}): Operation<ResumeResult> {
  return new Operation((event) => finished(options, { event }));
}

async function finished(options: ResumeOptions, listener: Listener): Promise<ResumeResult> {
  const given = ["guard", "--resume"];
  if (options.undecided !== undefined) given.push(`--on-failure=${options.undecided}`);
  const { report, error } = await run<{ resumed: GuardReport[] }>([...given, ...places(options)], options, listener);
  if (error !== undefined && options.throwOnError !== false) throw error;
  return { success: error === undefined, resumed: report.resumed ?? [], ...(error && { error }) };
}

async function guarded(command: string[], options: GuardOptions, listener: Listener): Promise<GuardResult> {
  const { report, error } = await run<GuardReport>(words(command, options), options, listener);
  if (error !== undefined && options.throwOnError !== false) throw error;
  return {
    success: error === undefined,
    timestamp: report.session ?? "",
    exit: report.exit ?? null,
    outcome: report.outcome ?? "backup-failed",
    databases: report.databases ?? [],
    changes: report.changes ?? [],
    ...(error && { error }),
    ...(report.outcome && { report: report as GuardReport }),
  };
}

function words(command: string[], options: GuardOptions): string[] {
  if (command.length === 0) {
    throw new DbkeepError("usage", "no command is given", { hint: 'as guard(["alembic", "upgrade", "head"])' });
  }
  const given = ["guard", `--on-failure=${options.onFailure ?? "restore"}`];
  if (options.name !== undefined) given.push(`--name=${options.name}`);
  if (options.timeout !== undefined) given.push(`--timeout=${options.timeout}`);
  for (const check of options.checks ?? []) given.push(`--check=${check}`);
  return [...given, ...places(options), "--", ...command];
}

/** Returns the databases as arguments. No `--` can protect them from being taken for options: the command stands behind it. */
function places({ databases = [] }: { databases?: string[] | undefined }): string[] {
  return databases.map((one) => withoutPassword(one.startsWith("-") ? `./${one}` : one, "a database"));
}
