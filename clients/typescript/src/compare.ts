import { DbkeepError } from "./error.js";
import { snapshotsOf } from "./manage.js";
import { Operation } from "./operation.js";
import type { CommonOptions } from "./options.js";
import type { CompareReport } from "./reports.js";
import { type Listener, run } from "./run.js";
import { sessionOf, type Which } from "./which.js";

/** How databases are compared. */
export interface CompareOptions extends CommonOptions {
  /** Only these tables. */
  tables?: string[] | undefined;
  /** Lists the rows that differ: so many of each table, or 20 with `true`. */
  rows?: boolean | number | undefined;
}

/** What differs. */
export interface CompareResult {
  /** `true`: what could not be compared is a rejection, unless `throwOnError` is `false`. */
  success: boolean;
  /** Whether nothing differs. */
  same: boolean;
  /** What differs, for each database. */
  databases: CompareReport[];
  /** Why it could not be compared. */
  error?: DbkeepError;
}

/**
 * Tells what changed since a backup: schema, tables and rows. Without `other`, or with `"current"`, it is compared with
 * the databases as they are now; `other` may also be `{ snapshot }` where one database is meant.
 */
export function compare(
  which: string | { snapshot: string; database?: string | undefined },
  other: "current" | { snapshot: string } = "current",
  options: CompareOptions = {},
): Operation<CompareResult> {
  return new Operation((event) => compareAll(which, other, options, { event }));
}

async function compareAll(
  which: Exclude<Which, { at: string | Date }>,
  other: "current" | { snapshot: string },
  options: CompareOptions,
  listener: Listener,
): Promise<CompareResult> {
  const session = sessionOf(which);
  const database = typeof which === "string" ? undefined : which.database;
  const ids = typeof which === "string" ? await snapshotsOf(session ?? which, options, listener) : [which.snapshot];
  if (ids.length === 0)
    throw new DbkeepError("no-snapshot", `there is no backup ${session}`, { hint: "see listBackups()" });
  const databases: CompareReport[] = [];
  for (const id of ids) {
    const words = ["compare", ...given(options, database), "--", id, other === "current" ? other : other.snapshot];
    const { report, error } = await run<CompareReport>(words, options, listener);
    if (error !== undefined && options.throwOnError !== false) throw error;
    if (error !== undefined) return { success: false, same: false, databases, error };
    databases.push(report as CompareReport);
  }
  return { success: true, same: databases.every((one) => one.same), databases };
}

function given(options: CompareOptions, database: string | undefined): string[] {
  const words = (options.tables ?? []).map((table) => `--table=${table}`);
  if (database !== undefined) words.push(`--database=${database}`);
  if (options.rows !== undefined && options.rows !== false) words.push("--rows");
  if (typeof options.rows === "number") words.push(`--limit=${options.rows}`);
  return words;
}
