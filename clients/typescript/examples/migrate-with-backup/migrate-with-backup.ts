// A migration with a way back: a proved backup before it, and the databases as they were where a step of it fails.

import {
  type CommonOptions,
  cleanOldBackups,
  compare,
  createSafetyBackup,
  type Operation,
  type reports,
  restoreBackup,
} from "dbkeep";

/** One step of a migration. */
export interface Step {
  name: string;
  run: () => Promise<void> | void;
}

/** What a migration is. */
export interface Migration {
  /** Its name: the backup is tagged with it. */
  name: string;
  /** The databases that it changes. */
  databases: string[];
  /** What it does, in order. */
  steps: Step[];
  /** How many backups stay afterwards. */
  keepLast?: number;
  /** Where to say what happens. */
  log?: (line: string) => void;
}

/** Runs a migration. Rejects with the error of the step that failed, after the databases are as they were. */
export async function migrateWithBackup(migration: Migration, options: CommonOptions = {}): Promise<string> {
  const { name, databases, steps, keepLast = 10, log = console.log } = migration;

  log(`${name}: backing up ${databases.join(", ")}`);
  const { timestamp } = await followed(createSafetyBackup(name, { ...options, databases }), log);
  log(`${name}: backup ${timestamp} is proved`);

  try {
    for (const [number, step] of steps.entries()) {
      log(`${name}: step ${number + 1} of ${steps.length}: ${step.name}`);
      await step.run();
    }
  } catch (error) {
    log(`${name}: failed: ${String(error)}`);
    await goBack(timestamp, options, log);
    throw error;
  }

  for (const line of await summary(timestamp, options)) log(line);
  const { removed } = await cleanOldBackups(keepLast, options);
  log(`${name}: done; ${removed} old snapshots removed`);
  return timestamp;
}

async function goBack(timestamp: string, options: CommonOptions, log: (line: string) => void): Promise<void> {
  const back = await followed(restoreBackup(timestamp, { ...options, force: true }), log);
  log(`${back.filesRestored} databases are as they were at ${timestamp}`);
  for (const one of back.databases) log(`  ${one.database}: the failed state is kept as ${one.safety_snapshot}`);
}

/** Says what goes on until it is done. */
async function followed<T>(operation: Operation<T>, log: (line: string) => void): Promise<T> {
  for await (const event of operation.progress()) {
    if (event.event === "phase") log(`  ${event.phase}`);
    if (event.event === "warning") log(`  warning: ${event.message}`);
  }
  return operation;
}

/** Returns what the migration changed: a line a table. */
async function summary(timestamp: string, options: CommonOptions): Promise<string[]> {
  const { databases } = await compare(timestamp, "current", options);
  return databases.flatMap((one) => one.tables.filter(differs).map((table) => line(one.left.database, table)));
}

function differs(table: reports.ComparedTable): boolean {
  const columns = table.columns_added.length + table.columns_removed.length;
  return table.added + table.removed + table.changed + columns > 0 || !table.in_left || !table.in_right;
}

function line(database: string, table: reports.ComparedTable): string {
  const rows = `${table.rows_left} -> ${table.rows_right} rows`;
  const columns = table.columns_added.map((column) => `, new column ${column}`).join("");
  return `  ${database}.${table.name}: ${rows}${columns}`;
}
