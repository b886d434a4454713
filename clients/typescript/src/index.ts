/**
 * Verified backups around migrations: drives the `dbkeep` binary, which has to be installed.
 *
 * Every function resolves only where all that was asked is done and good, and rejects with a {@link DbkeepError}
 * otherwise. What it returns can be awaited, and asked for its progress.
 */

export { type BackupOptions, type BackupResult, createBackup, createSafetyBackup } from "./backup.js";
export { OLDEST_BINARY } from "./binary.js";
export { type CompareOptions, type CompareResult, compare } from "./compare.js";
export { DbkeepError } from "./error.js";
export {
  type GuardOptions,
  type GuardResult,
  guard,
  type ResumeOptions,
  type ResumeResult,
  resumeGuards,
} from "./guard.js";
export {
  type Backup,
  backupInfo,
  type CleanOptions,
  type CleanResult,
  cleanOldBackups,
  dbkeep,
  type ListOptions,
  listBackups,
  type VerifyResult,
  verifyBackup,
} from "./manage.js";
export { Operation } from "./operation.js";
export type { CommonOptions } from "./options.js";
export type * as reports from "./reports.js";
export type { DbkeepEvent, Reports } from "./reports.js";
export { type RestoreOptions, type RestoreResult, restoreBackup } from "./restore.js";
export type { Which } from "./which.js";
