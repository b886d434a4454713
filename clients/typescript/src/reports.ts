// Made by `npm run types` from the schemas in docs/reference/json.

/** How a database comes into its place. */
export type Action =
  | "create"
  | "replace-pages"
  | "replace-file"
  | "copy-tables"
  | "create-database"
  | "add-tables"
  | "replace-tables"
  | "fill-tables"
  | "replace-rows"
  | "replace-database";

/**
 * dbkeep backup --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface BackupReport {
  /** One entry a configured copy. */
  copies: CopyReport[];
  /** One entry a database, in the order of the sources. */
  databases: DatabaseBackup[];
  /** Nothing was written: this is what would be done. */
  dry_run?: boolean;
  /**
   * Why the session failed when all of it did, that it was interrupted, that what is stored could not be
   * acknowledged, or that only this report could not be written to its file.
   */
  error?: ErrorReport | null;
  /** When it ended. */
  finished: string;
  /** Where the repository is. */
  repository: string;
  /** `YYYYMMDD_HHMMSS`, UTC. */
  session: string;
  /** When it began. */
  started: string;
  /** How it ended. */
  status: SessionStatus;
  /** Sums over `databases`. */
  totals: BackupTotals;
  /** What a person should know. */
  warnings?: string[];
}

/** How the backup of one database ended. */
export type BackupStatus = "ok" | "corrupt" | "failed" | "unchanged";

/** Sums over the databases of a session. */
export interface BackupTotals {
  /** New database content, before compression. */
  bytes_added: number;
  /** What was read of the sources. */
  bytes_read: number;
  /** Size of all images. */
  bytes_source: number;
  /** What that takes in the repository. */
  bytes_stored: number;
  /** How many databases. */
  databases: number;
  /** How many of them failed. */
  failed: number;
  /** The share saved: 1 - stored / source; 0 for empty sources. */
  ratio: number;
  /** Rows of all tables. */
  rows: number;
}

/**
 * A value of a database. What JSON has no word for is an object with one key: `$blob` and `$text` (not valid as text)
 * in base64, `$integer` beyond 2^53, `$real`, `$long` for the beginning of a long text.
 */
export type CellValue =
  | null | number | string | {
  $blob: string;
} | {
  $text: string;
} | {
  $integer: string;
} | {
  $real: string;
} | {
  $long: {
    begin: string;
    bytes: number;
  };
};

/** One thing that is wrong with the repository. */
export interface CheckFinding {
  /** The snapshots that need it. */
  affects: Id[];
  /** The databases of those snapshots. */
  databases: string[];
  /** A word for programs. */
  kind: string;
  /** One sentence. */
  message: string;
  /** What is damaged or gone. */
  object: string;
}

/**
 * dbkeep check --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface CheckReport {
  /** How many blobs are in them. */
  blobs: number;
  /** How much data was read. */
  bytes_read: number;
  /** How long it took. */
  duration_ms: number;
  /** Everything that is wrong. */
  findings: CheckFinding[];
  /** What is odd but harms nothing. */
  notes?: string[];
  /** Nothing was found. */
  ok: boolean;
  /** How many packs there are. */
  packs: number;
  /** How many snapshots there are. */
  snapshots: number;
}

/** What was found in one file. */
export interface CheckedFile {
  /** Length of the file. */
  bytes: number | null;
  /** What files of this form cannot bring back. */
  cannot_hold: string[];
  /** `ok`, `wrong`, or `none` when no checksum is there to compare with. */
  checksum: string;
  /** The database; empty for a file that holds none. */
  database: string;
  /** The path of the file in what was given. */
  file: string;
  /** Everything that is wrong. */
  findings: string[];
  /** `db`, `gzip`, `sql`, `json`, `ndjson`, `csv`, or `file`. */
  form: string;
  /** `ok`, `not run`, or the first problem. */
  integrity: string;
  /** What else a person should know. */
  notes?: string[];
  /** Rows of all tables. */
  rows: number;
  /** SHA-256 of the file. */
  sha256: Id | null;
  /** The snapshot that it was exported from, where it says so. */
  snapshot: Id | null;
  /** What it turned out to be. */
  status: VerifyStatus;
  /** Tables and their rows, as they were counted. */
  tables: TableRows[];
}

/**
 * dbkeep clean --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface CleanReport {
  /** In its copies, in the order of the configuration. */
  copies?: InPlace[];
  /** Nothing was removed: this is what would be. */
  dry_run?: boolean;
  /** What is gone. */
  forgotten: Forgotten[];
  /** The databases that the policy of the configuration left as they are, because something looked wrong. */
  frozen?: Frozen[];
  /** What stays, and why. */
  kept: Kept[];
  /** What the prune after that did. */
  prune?: PruneReport | null;
  /** What was asked for and stays nevertheless. */
  refused: Refused[];
}

/** A column that differs. */
export interface ColumnChange {
  /** What it held; absent where there was no row. */
  left?: CellValue | null;
  /** Its name. */
  name: string;
  /** What it holds; absent where there is no row. */
  right?: CellValue | null;
}

/**
 * dbkeep compare --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface CompareReport {
  /** The one side. */
  left: ComparedSide;
  /** What a person should know. */
  notes: string[];
  /** The other. */
  right: ComparedSide;
  /** Whether nothing differs. False where something could not be compared. */
  same: boolean;
  /** What differs in the schema. */
  schema: SchemaReport;
  /** Every sequence of a PostgreSQL database that stands elsewhere, by name. */
  sequences?: ComparedSequence[];
  /** Every table that was compared, by name. */
  tables: ComparedTable[];
}

/** A sequence that stands elsewhere on each side. */
export interface ComparedSequence {
  /** Where it stands on the left side. */
  left: SequenceValue;
  /** Its name. */
  name: string;
  /** Where it stands on the right side. */
  right: SequenceValue;
}

/** One of the two sides. */
export interface ComparedSide {
  /** The name of the database. */
  database: string;
  /** The moment that it shows. */
  moment: string;
  /** The snapshot; null for the live database. */
  snapshot: Id | null;
  /** Where it is, or was when it was backed up. */
  source: string;
}

/** What differs in a table. */
export interface ComparedTable {
  /** Rows that only the right side has. */
  added: number;
  /** Rows that both sides have, with other values. */
  changed: number;
  /** Columns that only the right side has; what they hold is not compared. */
  columns_added: string[];
  /** Columns that only the left side has. */
  columns_removed: string[];
  /** Columns that have another name on the right. */
  columns_renamed: RenamedColumn[];
  /** Why it could not be compared; the counts then mean nothing. */
  error: string | null;
  /** Whether the left side has the table. */
  in_left: boolean;
  /** Whether the right side has the table. */
  in_right: boolean;
  /** The columns of the declared key that tells its rows apart; empty without one, and where nothing was read. */
  key: string[];
  /** How many more differ than are listed. */
  more: number;
  /** Its name. */
  name: string;
  /** Rows that only the left side has. */
  removed: number;
  /** The first rows that differ, where they were asked for. */
  rows: RowChange[];
  /** The rows of the left side. */
  rows_left: number;
  /** The rows of the right side. */
  rows_right: number;
}

/**
 * dbkeep completions --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface CompletionsReport {
  /** The script. */
  script: string;
  /** The shell. */
  shell: string;
}

/**
 * dbkeep config check --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface ConfigCheckReport {
  /** The file; null when there is none. */
  file: string | null;
  /** It can be used; one that cannot is an error. */
  ok: boolean;
  /** What is allowed but odd. */
  warnings: string[];
}

/**
 * dbkeep config example --json. The one document on standard output. Fields may be added. Where the command fails,
 * the document is that of error.json, with what there is of this one beside it.
 */
export interface ConfigExampleReport {
  /** The text of the file. */
  example: string;
}

/**
 * dbkeep config show --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface ConfigShowReport {
  /** The settings, defaults included; `dbkeep config schema` prints their schema. */
  config: { [key: string]: unknown };
  /** The file; null when there is none. */
  file: string | null;
  /** What gives the password; the password itself is never here. */
  password_from: string | null;
  /** Where the repository is, and what said so. */
  repository: string;
  /** What said where the repository is: `--repo`, `DBKEEP_REPOSITORY`, the file, or `default`. */
  repository_from: string;
  /** What is allowed but odd. */
  warnings: string[];
}

/** One snapshot that was to be copied. */
export interface CopiedSnapshot {
  /** The snapshot that is its copy. */
  copy: Id | null;
  /** Its database; null when another tool made it. */
  database: string | null;
  /** Why it failed. */
  error: ErrorReport | null;
  /** The snapshot of the source. */
  snapshot: Id;
  /** What became of it. */
  status: CopiedStatus;
  /** The moment of its contents; null where it cannot be read. */
  time: string | null;
}

/** What became of one snapshot. */
export type CopiedStatus = "copied" | "repaired" | "present" | "failed";

/** What became of a copy. */
export interface CopyReport {
  /** What that takes there. */
  bytes_stored: number;
  /** How many snapshots were copied, those that earlier runs had not copied included. */
  copied: number;
  /** Why not all is there. */
  error: ErrorReport | null;
  /** The configured name. */
  name: string;
  /** `ok`, `partial` (some snapshots are not there) or `failed`. */
  status: string;
}

/**
 * dbkeep copy --json. The one document on standard output. Fields may be added. Where the command fails, the document
 * is that of error.json, with what there is of this one beside it.
 */
export interface CopyRunReport {
  /** What was read of the source, as plain bytes. */
  bytes_read: number;
  /** What was stored there. */
  bytes_stored: number;
  /** What was read back there. */
  bytes_verified: number;
  /** How many were copied, those whose copies were repaired included. */
  copied: number;
  /** The configured name of the copy, else its location. */
  copy: string;
  /** How many were dropped there on purpose, and so not copied again. */
  dropped: number;
  /** Nothing was written: this is what would be done. */
  dry_run?: boolean;
  /** How long it took. */
  duration_ms: number;
  /** Why it ended early, or why all of it failed. */
  error?: ErrorReport | null;
  /** How many failed. */
  failed: number;
  /** Where it is. */
  location: string;
  /** How many were there before. */
  present: number;
  /** What was copied, repaired or failed, newest first; what was there before only where it was named. */
  snapshots: CopiedSnapshot[];
  /** How it ended. */
  status: SessionStatus;
}

/** One configured copy on the screen. */
export interface CopyStatus {
  /** How many it lacks, without those that were dropped there on purpose. */
  behind: number;
  /** What its packs take; null where it could not be opened. */
  bytes_stored: number | null;
  /** What is free where it is. */
  disk_free: number | null;
  /** How many were dropped there on purpose. */
  dropped: number;
  /** Why. */
  error: ErrorReport | null;
  /** When it last went wrong, unless it went well since. */
  failed: string | null;
  /** When copying there from this host last went well. */
  last_copied: string | null;
  /** Where it is. */
  location: string;
  /** The configured name. */
  name: string;
  /** The newest snapshot of the repository that it has. */
  newest: Id | null;
  /**
   * How many others it has: those that were forgotten here, or that came from elsewhere. null where it could not be
   * opened.
   */
  other_snapshots: number | null;
  /** What is wrong. */
  problems: string[];
  /** Whether it could be opened now; else the numbers are what this host remembers. */
  reachable: boolean;
  /** How many snapshots of the repository it has. */
  snapshots: number;
}

/** What a session did with one database. */
export interface DatabaseBackup {
  /** New content, before compression. */
  bytes_added: number;
  /** What was read of the source. */
  bytes_read: number;
  /** Size of the image. */
  bytes_source: number;
  /** What that takes in the repository. */
  bytes_stored: number;
  /** How long it took. */
  duration_ms: number;
  /** Its engine. */
  engine: Engine;
  /** Why it failed. */
  error: ErrorReport | null;
  /** `ok`, `not run`, or the first problem. */
  integrity: string;
  /** How the image was read. */
  method?: string | null;
  /** The name in the repository. */
  name: string;
  /** What a person should know: why a check did not run, what was not counted. */
  notes?: string[];
  /** The snapshot before it. */
  parent: Id | null;
  /** SHA-256 over the ordered chunk ids. */
  root: Id | null;
  /** Rows of all tables. */
  rows: number;
  /** The plain SHA-256 of the image, where it was computed. */
  sha256: Id | null;
  /** The new snapshot. */
  snapshot: Id | null;
  /** Where it is; secrets are redacted. */
  source: string;
  /** How it ended. */
  status: BackupStatus;
  /** Tables and their rows, by name. */
  tables: TableRows[];
}

/** What differs in a database after the command. */
export interface DatabaseChanges {
  /** Its name. */
  database: string;
  /** Why it could not be compared. */
  error: ErrorReport | null;
  /** What a person should know. */
  notes: string[];
  /** Whether nothing differs. */
  same: boolean;
  /** What differs in the schema: `left` is before, `right` after. */
  schema: SchemaReport;
  /** Every sequence that stands elsewhere. */
  sequences?: ComparedSequence[];
  /** Every table that differs. */
  tables: ComparedTable[];
}

/** One database of an export. */
export interface DatabaseExport {
  /** Size of the image. */
  bytes_source: number;
  /** Size of the files with its contents. */
  bytes_written: number;
  /** Its name. */
  database: string;
  /** `ok`, `not run`, or the first problem, when it was backed up. */
  integrity: string;
  /** The moment that it shows. */
  moment: string;
  /** What is not in the export, and what else a person should know. */
  notes?: string[];
  /** Rows of all tables. */
  rows: number;
  /** The plain SHA-256 of the image, where the format holds the image. */
  sha256: Id | null;
  /** The snapshot. */
  snapshot: Id;
  /** `ok`, or `corrupt` where the source was damaged. */
  status: string;
  /** Tables and their rows, by name. */
  tables: TableRows[];
}

/** What one database costs. */
export interface DatabaseSize {
  /** What they would take as plain copies, together. */
  bytes_source: number;
  /** What is stored for them and for nothing else. */
  bytes_unique: number;
  /** Its name. */
  name: string;
  /** How many snapshots there are of it. */
  snapshots: number;
}

/** One database on the screen. */
export interface DatabaseStatus {
  /** Size of the newest image. */
  bytes_source: number | null;
  /** Its engine. */
  engine: Engine | null;
  /** The newest. */
  last_backup: string | null;
  /** The newest good one. */
  last_good: string | null;
  /** Its id. */
  last_snapshot: Id | null;
  /** When one of its snapshots was last proved. */
  last_verified: string | null;
  /** The name. */
  name: string;
  /** When a backup is due next; null without a schedule. */
  next_run: string | null;
  /** What is wrong. */
  problems: string[];
  /** Rows of the newest image. */
  rows: number | null;
  /** How many snapshots it has. */
  snapshots: number;
  /** Where it is. */
  source: string | null;
}

/**
 * A line that --progress=json writes to standard error. One JSON object a line. Kinds of events and fields may be
 * added.
 */
export type DbkeepEvent =
  | {
  event: "phase";
  /** What is done, for people. */
  phase: string;
  /** How many bytes there are to go; 0 where nobody knows. */
  total: number;
} | {
  /** How many bytes of it are done. */
  done: number;
  event: "progress";
  /** What is done, for people. */
  phase: string;
  /** How many tables are done, where they are counted. */
  tables?: TableProgress | null;
  /** How many there are; 0 where nobody knows. */
  total: number;
} | {
  event: "step";
  /** Its name. */
  step: string;
} | {
  event: "message";
  /** One line. */
  message: string;
} | {
  event: "warning";
  /** What to do about it. */
  hint: string | null;
  /** One sentence. */
  message: string;
} | {
  event: "error";
  /** What to do about it. */
  hint: string | null;
  /** A word for programs. */
  kind: string;
  /** One sentence, with its causes. */
  message: string;
};

/**
 * dbkeep demo --json. The one document on standard output. Fields may be added. Where the command fails, the document
 * is that of error.json, with what there is of this one beside it.
 */
export interface DemoReport {
  /** Where everything is. */
  directory: string;
  /** Each command, in order. */
  steps: Step[];
}

/**
 * dbkeep doctor --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface DoctorReport {
  /** Where they would be stored. */
  repository: ExaminedRepository;
  /** Each source, in the order in which they were given. */
  sources: ExaminedSource[];
}

/**
 * dbkeep drill --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface DrillReport {
  /** One entry a snapshot. */
  drills: Drilled[];
  /** Why nothing could be tried. */
  error?: ErrorReport | null;
  /** How many did not, or could not be tried. */
  failed: number;
  /** How many passed. */
  ok: number;
}

/** Whether a snapshot passed. */
export type DrillStatus = "ok" | "failed";

/** What the drill of one snapshot found. */
export interface Drilled {
  /** What was asked. */
  assertions: TriedAssertion[];
  /** Its database. */
  database: string;
  /** From the begin to the last answer. */
  duration_ms: number;
  /** Why it could not be tried. */
  error: ErrorReport | null;
  /** What is wrong with it. */
  findings: string[];
  /** How many things could not be restored, and so were not tried; `notes` tells them. */
  left_out: number;
  /** What a person should know. */
  notes?: string[];
  /** Rows in the restored database. */
  rows: number;
  /** The snapshot. */
  snapshot: Id;
  /** What came out. */
  status: DrillStatus;
}

/** Which engine a database belongs to. */
export type Engine = "sqlite" | "postgres";

/**
 * What a command prints that failed. Exit codes 1, 2, 10, 11 and 12 always carry it; what the command has to tell in
 * spite of the failure stands beside it.
 */
export interface ErrorDocument {
  /** Why the command failed. */
  error: ErrorReport;
}

/** An error as it stands in a report. */
export interface ErrorReport {
  /** What to do about it. */
  hint: string | null;
  /** A word for programs. */
  kind: string;
  /** One sentence, with its causes. */
  message: string;
}

/** The repository, examined. */
export interface ExaminedRepository {
  /** What was found. */
  findings: Finding[];
  /** Where it is. */
  location: string;
  /** The worst of what was found. */
  status: Health;
}

/** A source that was examined. */
export interface ExaminedSource {
  /** Its engine. */
  engine: Engine;
  /** Why it could not be examined, or no further. */
  error: ErrorReport | null;
  /** What was found, before the error where there is one. */
  findings: Finding[];
  /** What it is called in the repository. */
  name: string;
  /** Where it is, for people; secrets are redacted. */
  source: string;
  /** The worst of what was found; a problem where it could not be examined. */
  status: Health;
}

/**
 * dbkeep export --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface ExportReport {
  /** One entry a database. */
  databases: DatabaseExport[];
  /** How long it took. */
  duration_ms: number;
  /** Every file, by its path in the directory. */
  files: ExportedFile[];
  /** The format, as on the command line. */
  format: string;
  /** The databases that the session had and that are not in the export, because their snapshots are gone. */
  missing?: MissingDatabase[];
  /** The directory. */
  out: string;
  /** The session. */
  session: string;
  /** Sums over the databases. */
  totals: ExportTotals;
}

/** Sums over an export. */
export interface ExportTotals {
  /** Size of all images. */
  bytes_source: number;
  /** Size of all files. */
  bytes_written: number;
  /** How many databases. */
  databases: number;
  /** Rows of all tables. */
  rows: number;
}

/** A file of an export. */
export interface ExportedFile {
  /** Its length. */
  bytes: number;
  /** Its path in the directory of the export. */
  path: string;
  /** Its SHA-256. */
  sha256: Id;
}

/** Something that is installed in a database. */
export interface Extension {
  /** Its name. */
  name: string;
  /** The schema of its objects. */
  schema: string;
  /** Its version. */
  version: string;
}

/** What is known of a server, a database and a user. */
export interface Facts {
  /** Whether no policy hides rows from it. */
  "bypasses-row-security": boolean;
  /** Its bytes on disk; 0 where this user may not know. */
  bytes: number;
  /** The name of the database. */
  database: string;
  /** Its number: a database that was dropped and made again has another one. */
  "database-oid": number;
  /** What is installed in the database, by name. */
  extensions: Extension[];
  /** Whether the server is a standby. */
  "in-recovery": boolean;
  /** Whether it may do anything. */
  "is-superuser": boolean;
  /** What a database is made with. */
  properties: Properties;
  /** What tells this server and its standbys from all others; absent where this user may not know. */
  "system-identifier"?: string | null;
  /** The role whose rights hold. */
  user: string;
  /** The version of the server, as `16.4`. */
  version: string;
  /** The same as a number, as 160004. */
  "version-number": number;
}

/** Who wrote a file, a directory or an archive, when and where, as it says itself. */
export interface FileFacts {
  /** The branch that was checked out. */
  git_branch: string | null;
  /** The commit that was checked out. */
  git_commit: string | null;
  /** Where. */
  host: string | null;
  /** What was not looked at. */
  notes?: string[];
  /** The path. */
  path: string;
  /** The session, or what a script called its run. */
  session: string | null;
  /** When, as it is written there. */
  time: string | null;
  /** Who took the backup. */
  user: string | null;
  /** `dbkeep 0.1.0`, or what kind of script; null when nothing says so. */
  written_by: string | null;
}

/** Which file a SQLite database is. */
export interface FileIdentity {
  /** The file system. */
  device: number;
  /** The host of the file. */
  host: string;
  /** The file within it. */
  inode: number;
  /** Its path without symbolic links. */
  path: string;
}

/** What plain files turned out to be. */
export interface FilesReport {
  /** One entry a database, and one for each other file that is not what it should be. */
  checked: CheckedFile[];
  /** How many are not, those that are missing included. */
  damaged: number;
  /** What each path holds as a whole. */
  files: FileFacts[];
  /** How many are what they say. */
  ok: number;
}

/** What was found. */
export interface Finding {
  /** What to do: a command where there is one. */
  advice: string | null;
  /** What is so, in one line. */
  message: string;
  /** How much it matters. */
  severity: Severity;
  /** What it is about, as `connection` or `table "public"."users"`. */
  subject: string;
}

/**
 * dbkeep forget --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface ForgetReport {
  /** In its copies, in the order of the configuration. */
  copies?: InPlace[];
  /** Nothing was removed: this is what would be. */
  dry_run?: boolean;
  /** What is gone. */
  forgotten: Forgotten[];
  /** The databases that the policy of the configuration left as they are, because something looked wrong. */
  frozen?: Frozen[];
  /** What stays, and why. */
  kept: Kept[];
  /** What the prune after that did. */
  prune?: PruneReport | null;
  /** What was asked for and stays nevertheless. */
  refused: Refused[];
}

/** A snapshot that was forgotten. */
export interface Forgotten {
  /** Its database; null when another tool made it. */
  database: string | null;
  /** The snapshot. */
  id: Id;
  /** The moment of its contents. */
  time: string;
}

/** A database that the policy of the configuration left as it is. */
export interface Frozen {
  /** Its name. */
  database: string;
  /** What looked wrong. */
  why: string;
}

/** What the working directory had checked out. */
export interface Git {
  /** The branch; null when no branch was checked out. */
  branch: string | null;
  /** The commit; null before the first one. */
  commit: string | null;
}

/** A query that was asked after the command. */
export interface GuardCheck {
  /** Its answer, or why there is none. */
  found: string;
  /** Whether that is as it should be. */
  ok: boolean;
  /** The query. */
  sql: string;
}

/**
 * dbkeep guard --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export type GuardDocument =
  | GuardReport | {
  /** One entry a guard that had not ended. */
  resumed: GuardReport[];
};

/** What became of the databases. */
export type GuardOutcome = "succeeded" | "restored" | "kept" | "backup-failed" | "not-started";

/** What a guard did. */
export interface GuardReport {
  /** What the command changed, one entry a database that could be compared. */
  changes: DatabaseChanges[];
  /** Whether that is a check after the command rather than the command itself. */
  check_failed: boolean;
  /** The command, word by word; secrets are redacted. */
  command: string[];
  /** One entry a database. */
  databases: GuardedDatabase[];
  /** How long the command ran. */
  duration_ms: number;
  /** What the guard itself failed at. */
  error?: ErrorReport | null;
  /**
   * What the command exited with, as a shell sees it: 128 and the signal, 124 for one that took too long. null when
   * it was never started, and where that is not known any more.
   */
  exit: number | null;
  /** Why the command counts as failed; null when it does not. */
  failure: string | null;
  /** When it ended. */
  finished: string;
  /** What a person should know. */
  notes?: string[];
  /** What became of the databases. */
  outcome: GuardOutcome;
  /** The session of the backup to go back to; empty when there is none. */
  session: string;
  /** When the guard began. */
  started: string;
}

/** One database of a guard. */
export interface GuardedDatabase {
  /** Whether it can be shown that nothing but the command wrote. */
  alone: boolean;
  /** What the restore wrote. */
  bytes_written: number;
  /** The queries that were asked after the command. */
  checks: GuardCheck[];
  /** Why not, one sentence each. */
  doubts: string[];
  /** Its engine. */
  engine: Engine;
  /** What went wrong with this database. */
  error: ErrorReport | null;
  /** The integrity after the command: `ok`, `not run`, or the first problem. */
  integrity: string;
  /** Its name. */
  name: string;
  /** In how many pages. */
  pages_written: number;
  /** How long the restore took. */
  restore_ms: number;
  /** The backup of the failed state, which was made before the restore. */
  safety_snapshot: Id | null;
  /** The snapshot to go back to. */
  snapshot: Id | null;
  /** Where it is; secrets are redacted. */
  source: string;
  /** What became of it. */
  status: GuardedStatus;
}

/** What became of one database. */
export type GuardedStatus = "untouched" | "unchanged" | "changed" | "restored";

/** How something stands. */
export type Health = "ok" | "warning" | "problem";

/** A SHA-256: 64 lower-case hexadecimal digits. */
export type Id = string;

/** What a database says it is. */
export type Identity = FileIdentity | ServerIdentity;

/** The image in the snapshot. */
export interface ImageFacts {
  /** Bytes a chunk; 0 where they are cut by content. */
  chunk_size: number;
  /** How many chunks. */
  chunks: number;
  /** How it was read. */
  method: string;
  /** The name of the file, or of the directory of parts without `.parts`; `data` for the rows of a server. */
  name: string;
  /** How many parts; 0 when it is one file. */
  parts: number;
  /** Whether the file is a copy of bytes that SQLite could not open. */
  raw: boolean;
  /** SHA-256 over the ordered chunk ids; for a server over those of its objects, tables and large objects. */
  root: Id;
  /** The plain SHA-256, where it was computed. */
  sha256: Id | null;
  /** Bytes. */
  size: number;
}

/** The same of one place. */
export interface InPlace {
  /** Nothing was removed: this is what would be. */
  dry_run?: boolean;
  /** Why nothing was. */
  error: ErrorReport | null;
  /** What is gone. */
  forgotten: Forgotten[];
  /** The databases that the policy of the configuration left as they are, because something looked wrong. */
  frozen?: Frozen[];
  /** What stays, and why. */
  kept: Kept[];
  /** Where it is; empty where that makes no sense. */
  location: string;
  /** What it is called. */
  name: string;
  /** What the prune after that did. */
  prune?: PruneReport | null;
  /** What was asked for and stays nevertheless. */
  refused: Refused[];
}

/**
 * dbkeep init --json. The one document on standard output. Fields may be added. Where the command fails, the document
 * is that of error.json, with what there is of this one beside it.
 */
export interface InitReport {
  /** The first backup of `init --setup`. */
  backup?: BackupReport | null;
  /** What it is called inside. */
  id: string;
  /** Where the generated key was written; null when a password was given. */
  key_file: string | null;
  /** Where the repository is. */
  repository: string;
  /** What `init --setup` made besides, and what it found in place. */
  setup?: SetupItem[];
}

/** Whether a database was sound. */
export interface Integrity {
  /** How deep it went: `quick`, `full`, `none`; `rows` where every row was read and summed up, as of a server. */
  level: string;
  /** The problems, at most a hundred. */
  problems?: string[];
  /** What the check came to. */
  result: IntegrityResult;
}

/** What an integrity check came to. */
export type IntegrityResult = "ok" | "not-run" | "corrupt";

/** A snapshot that stays. */
export interface Kept {
  /** Its database; null when another tool made it. */
  database: string | null;
  /** The snapshot. */
  id: Id;
  /** Why. */
  reasons: string[];
  /** The moment of its contents. */
  time: string;
}

/**
 * dbkeep key add --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface KeyAddReport {
  /** The id of its file. */
  id: Id;
  /** Where the generated key was written; null when a password was given. */
  key_file: string | null;
}

/**
 * dbkeep key list --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface KeyListReport {
  /** One entry a key, oldest first. */
  keys: KeyRow[];
}

/**
 * dbkeep key remove --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface KeyRemoveReport {
  /** The id of its file. */
  id: Id;
}

/** One key. */
export interface KeyRow {
  /** When it was made. */
  created: string | null;
  /** Whether this command used it. */
  current: boolean;
  /** Where. */
  host: string;
  /** The id of its file. */
  id: Id;
  /** The first eight digits of it. */
  short_id: string;
  /** Who made it. */
  user: string;
}

/**
 * dbkeep key show-recovery --json. The one document on standard output. Fields may be added. Where the command fails,
 * the document is that of error.json, with what there is of this one beside it.
 */
export interface KeyShowRecoveryReport {
  /** The commands of stock restic that restore. */
  commands: string[];
  /** The host that made the sheet. */
  host: string;
  /** What it is called inside. */
  id: string;
  /** The key: whoever has it and the repository can read every backup. */
  key: string;
  /** Where the repository is. */
  location: string;
}

/**
 * dbkeep list --json. The one document on standard output. Fields may be added. Where the command fails, the document
 * is that of error.json, with what there is of this one beside it.
 */
export interface ListReport {
  /** One entry a snapshot. */
  snapshots: SnapshotRow[];
}

/**
 * dbkeep man --json. The one document on standard output. Fields may be added. Where the command fails, the document
 * is that of error.json, with what there is of this one beside it.
 */
export interface ManReport {
  /** Where. */
  directory: string;
  /** Each page. */
  pages: string[];
}

/** A database of a session that is not there any more. */
export interface MissingDatabase {
  /** Its name. */
  database: string;
  /** What became of its snapshot. */
  status: MissingStatus;
}

/** What became of a snapshot that is not there. */
export type MissingStatus = "forgotten" | "lost";

/** How a snapshot was taken. */
export interface Options {
  /** Whether all databases of the session show one instant. */
  at_once: boolean;
  /** The level of zstd. */
  compression: number;
  /** Why. */
  reason: string;
  /** The user's tags. */
  tags: string[];
  /** The depth of the check that was asked for. */
  verify: string;
}

/**
 * dbkeep pin --json. The one document on standard output. Fields may be added. Where the command fails, the document
 * is that of error.json, with what there is of this one beside it.
 */
export interface PinReport {
  /** Whether it was not so before. */
  changed: boolean;
  /** Its database; null when another tool made it. */
  database: string | null;
  /** Whether it is held now. */
  pinned: boolean;
  /** The snapshot. */
  snapshot: Id;
  /** The moment of its contents. */
  time: string;
}

/** What a restore will do with one database. */
export interface PlannedRestore {
  /** How. */
  action: Action;
  /** What is free where it goes. */
  bytes_free: number | null;
  /** Size of the image. */
  bytes_image: number;
  /** The copy that it is restored from; null for the repository itself. */
  copy?: string | null;
  /** Its database. */
  database: string;
  /** Why this database of a session cannot be restored. */
  error: ErrorReport | null;
  /** Whether it goes into its original place. */
  in_place: boolean;
  /** The moment that is reached. */
  moment: string;
  /** What a person should know. */
  notes: string[];
  /** Whether what is there is backed up first. */
  safety_backup: boolean;
  /** The snapshot. */
  snapshot: Id;
  /** Only these tables; all when empty. */
  tables: string[];
  /** Where it goes. */
  target: string;
}

/** What a PostgreSQL server says of a database, and the proof of its tables. */
export interface PostgresFacts {
  /** Large objects: what they hold and whose they are, each as rows of a table; none where there are none. */
  large_objects?: TableProof[];
  /** What of the database is not in the snapshot, and why. */
  not_covered?: string[];
  /** The SHA-256 of those objects as SQL text, without what is different in each rendering. */
  objects: Id;
  /** What of the database was asked for. */
  selection?: Selection;
  /** The server, the database and the user. */
  server: Facts;
  /** Every table whose rows are stored, as the catalog beside the manifest has them. */
  tables: TableProof[];
  /** The version of `pg_dump` that wrote the archive of its objects. */
  tools: string;
}

/** What a database is beside what it holds. */
export interface Properties {
  /** The classes of characters. */
  "character-type": string;
  /** The order of text. */
  collate: string;
  /** The encoding, as `UTF8`. */
  encoding: string;
  /** What was added to the rules of an ICU locale. */
  "icu-rules"?: string | null;
  /** Who knows the order of text, where that is not the C library: `icu` or `builtin`, and the locale there. */
  provider?: [string, string] | null;
}

/** What `prune` did, or would do. */
export interface PruneReport {
  /** Bytes of the packs that were removed. */
  bytes_freed: number;
  /** Bytes of the packs that were marked. */
  bytes_marked: number;
  /** Bytes that were written: copies and index files. */
  bytes_rewritten: number;
  /** Bytes that stay unused in packs that are partly used. */
  bytes_unused: number;
  /** Bytes that snapshots need. */
  bytes_used: number;
  /** Their bytes. */
  bytes_waiting: number;
  /** Nothing was changed: this is what would be. */
  dry_run?: boolean;
  /** From when on a prune removes what was marked now. */
  free_from: string | null;
  /** Packs that were marked: a prune after the time of grace removes them. */
  packs_marked: number;
  /** Packs that were removed. */
  packs_removed: number;
  /** Packs whose used part was copied into new ones. */
  packs_rewritten: number;
  /** Packs that were marked and are needed again. */
  packs_taken_back: number;
  /** Packs that no index names and that are younger than the time of grace. */
  packs_unnamed: number;
  /** Packs that an earlier prune has marked and that wait. */
  packs_waiting: number;
}

/** A snapshot that was not forgotten though it was asked for. */
export interface Refused {
  /** Its database; null when another tool made it. */
  database: string | null;
  /** The snapshot. */
  id: Id;
  /** The moment of its contents. */
  time: string;
  /** Why. */
  why: string;
}

/** A column with two names. */
export interface RenamedColumn {
  /** Its name on the left. */
  left: string;
  /** Its name on the right. */
  right: string;
}

/** What the repository knows of a snapshot. */
export interface RepositoryFacts {
  /** How many chunks the image has. */
  chunks: number;
  /** What was found damaged. */
  findings: string[];
  /** Whether it counts as good. */
  good: boolean;
  /** The snapshot. */
  id: Id;
  /** The snapshot before it. */
  parent: Id | null;
  /** Its paths. */
  paths: string[];
  /** Its tags, ours among them. */
  tags: string[];
  /** Its tree. */
  tree: Id;
  /** When it was last proved. */
  verified: string | null;
}

/**
 * dbkeep restore --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export type RestoreDocument = RestoreOutcome | RestorePlan;

/** What `restore` did. */
export type RestoreOutcome = RestoreReport | SessionRestoreReport;

/** What a restore will do. */
export interface RestorePlan {
  /** One entry a database. */
  restores: PlannedRestore[];
  /** The session, when all its databases are restored. */
  session: string | null;
}

/** What a restore did. */
export interface RestoreReport {
  /** What was written to the target. */
  bytes_written: number;
  /** The copy that it was restored from; null for the repository itself. */
  copy?: string | null;
  /** Its database. */
  database: string;
  /** How long it took. */
  duration_ms: number;
  /** In a session: why not. */
  error?: ErrorReport | null;
  /** `ok`, `not run`, or the first problem. */
  integrity: string;
  /** How many things of a server could not be restored, as owners or an extension; `notes` tells them. */
  left_out: number;
  /** The moment that was reached. */
  moment: string;
  /** Where a damaged original went. */
  moved_aside?: string | null;
  /** What a person should know. */
  notes?: string[];
  /** How many pages of it. */
  pages_written: number;
  /** Rows of all tables restored, as the manifest or the copy counted them; without those that could not be. */
  rows: number;
  /** The backup of what was there before. */
  safety_snapshot: Id | null;
  /** What was restored. */
  snapshot: Id;
  /** In a session: whether this one was restored. */
  status?: RestoreStatus | null;
  /** The tables that were restored, when not all were asked for. */
  tables?: TableRows[];
  /** Where it is now. */
  target: string;
  /** Every hash was compared, the check was run and found nothing, and no row of the snapshot is missing. */
  verified: boolean;
}

/** Whether one database of a session was restored. */
export type RestoreStatus = "ok" | "failed";

/** A row that differs. */
export interface RowChange {
  /** What became of it. */
  change: RowKind;
  /** The columns that differ; of a row that one side has, all but those of the key. */
  columns: ColumnChange[];
  /** The columns that tell it apart, or its `rowid`; empty where a table has neither. */
  key: { [key: string]: CellValue };
}

/** What became of a row. */
export type RowKind = "added" | "removed" | "changed";

/** An object of the schema. */
export interface SchemaChange {
  /** The SQL that makes it, or the value of a setting, on the left. */
  left: string | null;
  /** Its name. */
  name: string;
  /** The same on the right. */
  right: string | null;
  /**
   * `table`, `index`, `view`, `trigger`, or `setting` (`user_version`, `application_id`); of PostgreSQL what
   * `pg_dump` calls it, as `fk constraint`.
   */
  type: string;
}

/** What differs in the schema. */
export interface SchemaReport {
  /** What only the right side has. */
  added: SchemaChange[];
  /** What is made in another way. */
  changed: SchemaChange[];
  /** What only the left side has. */
  removed: SchemaChange[];
}

/** The part of a database that was asked for, by names as people write them; everything when all lists are empty. */
export interface Selection {
  /** Not these tables. */
  exclude?: string[];
  /** These schemas only. */
  schemas?: string[];
  /** These tables only. */
  tables?: string[];
}

/** Where a sequence stands. */
export interface SequenceValue {
  /** Whether that one was given already. */
  is_called: boolean;
  /** The last value that it gave, or the first one that it will give. */
  last_value: number;
}

/** Which database of which server a PostgreSQL database is. */
export interface ServerIdentity {
  /** The name of the database. */
  database: string;
  /** Its number. */
  oid: number;
  /** The host and the port of the server, or the folder of its socket. */
  server: string;
  /** The number that the server was given when it was made; unknown where it does not say. */
  system: string | null;
}

/** What the restore of a session did. */
export interface SessionRestoreReport {
  /** Why it failed, when all of it did. */
  error?: ErrorReport | null;
  /** One entry a database. */
  restores: RestoreReport[];
  /** The session. */
  session: string;
  /** How it ended. */
  status: SessionStatus;
}

/** How a session ended. */
export type SessionStatus = "ok" | "partial" | "failed";

/** One thing that `init --setup` took care of. */
export interface SetupItem {
  /** Whether it was made or changed now; `false` when it was there already. */
  made: boolean;
  /** The file or directory. */
  path: string;
}

/** How much a finding matters. */
export type Severity = "ok" | "note" | "warning" | "problem";

/**
 * dbkeep show --json. The one document on standard output. Fields may be added. Where the command fails, the document
 * is that of error.json, with what there is of this one beside it.
 */
export interface ShowReport {
  /** New content of this snapshot, before compression. */
  bytes_added?: number;
  /** The true name of the database. */
  database?: string;
  /** The version of dbkeep that wrote it. */
  dbkeep?: string;
  /** Its engine. */
  engine?: Engine;
  /** The label of the configuration. */
  environment?: string | null;
  /** When its last byte was stored. */
  finished?: string;
  /** The format of this document. */
  format?: number;
  /** What the working directory had checked out. */
  git?: Git | null;
  /** What the database is, wherever it is called so. */
  identity?: Identity;
  /** What is stored: the image of a file, or all rows of a PostgreSQL database together. */
  image?: ImageFacts;
  /** Whether the database was sound. */
  integrity?: Integrity;
  /** The moment that the image shows. */
  moment?: string;
  /** What a person should know. */
  notes?: string[];
  /** How the snapshot was taken. */
  options?: Options;
  /** What the server says. */
  postgres?: PostgresFacts | null;
  /** What the repository knows. */
  repository: RepositoryFacts;
  /** Rows of all tables. */
  rows?: number;
  /** The session it belongs to. */
  session?: string;
  /** Where it was, as the user said; secrets are redacted. */
  source?: string;
  /** What the file's header says. */
  sqlite?: SqliteFacts | null;
  /** When the backup of this database began. */
  started?: string;
  /** Tables and their rows, by name; empty when they could not be counted, which `notes` then says. */
  tables?: TableRows[];
  /** Who took it. */
  user?: string;
}

/**
 * dbkeep size --json. The one document on standard output. Fields may be added. Where the command fails, the document
 * is that of error.json, with what there is of this one beside it.
 */
export interface SizeReport {
  /** Bytes that several databases need. */
  bytes_shared: number;
  /** Bytes of all packs. */
  bytes_stored: number;
  /** Bytes that no snapshot needs; a prune gives them back. */
  bytes_unused: number;
  /** Of those, bytes of packs that a prune has marked. */
  bytes_waiting: number;
  /** The configured copies. */
  copies: CopyStatus[];
  /** One entry a database, by name. */
  databases: DatabaseSize[];
  /** Bytes that are free where the repository is, where that can be told. */
  disk_free: number | null;
  /** How many packs there are. */
  packs: number;
}

/** One snapshot in a list. */
export interface SnapshotRow {
  /** New content of this snapshot. */
  bytes_added: number | null;
  /** Size of the image. */
  bytes_source: number | null;
  /** The configured copies that have it, as far as this host knows. */
  copies: string[];
  /** The database; null for a snapshot that other tools made. */
  database: string | null;
  /** When it was last restored in a drill. */
  drilled: string | null;
  /** Its engine. */
  engine: Engine | null;
  /** The host that took it. */
  host: string;
  /** Its id. */
  id: Id;
  /** `ok`, `not run`, the first problem, or `damaged` when it was found damaged later. */
  integrity: string | null;
  /** Whether it is held for good. */
  pinned: boolean;
  /** Why it was taken. */
  reason: string | null;
  /** Rows of all tables. */
  rows: number | null;
  /** The session it belongs to. */
  session: string | null;
  /** The first eight digits of it. */
  short_id: string;
  /** How many tables. */
  tables: number | null;
  /** Tags of the user, without our own. */
  tags: string[];
  /** When it was taken. */
  time: string;
  /** When it was last proved. */
  verified: string | null;
}

/** What the header of a SQLite file says. */
export interface SqliteFacts {
  /** The application's own mark. */
  application_id: number;
  /** `utf-8`, `utf-16le` or `utf-16be`. */
  encoding: string;
  /** `wal` or `rollback`. */
  journal: string;
  /** How many pages the image has. */
  page_count: number;
  /** Bytes a page. */
  page_size: number;
  /** Bytes at the end of each page that SQLite leaves alone. */
  reserved: number;
  /** The application's own version. */
  user_version: number;
  /** The SQLite that wrote last, as `3.45.1`. */
  written_by: string;
}

/**
 * dbkeep status --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface StatusReport {
  /** What the packs take. */
  bytes_stored: number;
  /** The configured copies. */
  copies: CopyStatus[];
  /** One entry a database: those configured and those in the repository. */
  databases: DatabaseStatus[];
  /** What is free where the repository is. */
  disk_free: number | null;
  /** What it is called inside. */
  id: string;
  /** What is wrong; empty when nothing is. */
  problems: string[];
  /** Whether the recovery sheet was shown on this host. */
  recovery_sheet_shown: boolean;
  /** Where the repository is. */
  repository: string;
  /** How many snapshots there are, those of other tools included. */
  snapshots: number;
}

/** A command that was run. */
export interface Step {
  /** As a person types it. */
  command: string;
  /** What it ended with; null when a signal ended it. */
  exit: number | null;
  /** What it printed with `--json`. */
  report: unknown;
}

/** How far a phase is by tables. */
export interface TableProgress {
  /** How many are done. */
  done: number;
  /** How many there are. */
  total: number;
}

/** The proof of a table: what a restored one must come to. */
export interface TableProof {
  /** About how long its chunks are, in bytes; they end where rows end. */
  chunk_size: number;
  /** The file of its rows, below `data/`; a directory of parts has `.parts` behind it. */
  file: string;
  /** The sum of the hashes of all rows: 32 hexadecimal digits. */
  hash: string;
  /** Its name there. */
  name: string;
  /** SHA-256 over the ordered chunk ids. */
  root: Id;
  /** How many rows. */
  rows: number;
  /** Its schema. */
  schema: string;
  /** Bytes, as COPY writes rows. */
  size: number;
}

/** A table and how many rows it has. */
export interface TableRows {
  /** The name. */
  name: string;
  /** The rows. */
  rows: number;
}

/** A query and its answer. */
export interface TriedAssertion {
  /** What it should give. */
  expected: string;
  /** What it gave, or why that is no value. */
  found: string;
  /** Whether that is the same. */
  ok: boolean;
  /** The query. */
  sql: string;
}

/**
 * dbkeep unpin --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export interface UnpinReport {
  /** Whether it was not so before. */
  changed: boolean;
  /** Its database; null when another tool made it. */
  database: string | null;
  /** Whether it is held now. */
  pinned: boolean;
  /** The snapshot. */
  snapshot: Id;
  /** The moment of its contents. */
  time: string;
}

/** What was found of one snapshot. */
export interface Verified {
  /** What was read, before decryption counted as plain bytes. */
  bytes_read: number;
  /** Its database. */
  database: string;
  /** How long it took. */
  duration_ms: number;
  /** Everything that is wrong. */
  findings: string[];
  /** `ok`, `not run`, or the first problem. */
  integrity: string;
  /** What could not be verified, and why. */
  notes?: string[];
  /** The snapshot. */
  snapshot: Id;
  /** What it turned out to be. */
  status: VerifyStatus;
  /** When it was taken; null when it is missing. */
  time: string | null;
}

/**
 * dbkeep verify --json. The one document on standard output. Fields may be added. Where the command fails, the
 * document is that of error.json, with what there is of this one beside it.
 */
export type VerifyDocument = VerifyReport | FilesReport;

/** What a verification found. */
export interface VerifyReport {
  /** One entry a snapshot. */
  checked: Verified[];
  /** How many did not, those that are missing included. */
  damaged: number;
  /** How many kept their promise. */
  ok: number;
}

/** What a snapshot turned out to be. */
export type VerifyStatus = "ok" | "damaged" | "missing";

/** What each command prints with --json. */
export interface Reports {
  "backup": BackupReport;
  "check": CheckReport;
  "clean": CleanReport;
  "compare": CompareReport;
  "completions": CompletionsReport;
  "config check": ConfigCheckReport;
  "config example": ConfigExampleReport;
  "config show": ConfigShowReport;
  "copy": CopyRunReport;
  "demo": DemoReport;
  "doctor": DoctorReport;
  "drill": DrillReport;
  "export": ExportReport;
  "forget": ForgetReport;
  "guard": GuardDocument;
  "init": InitReport;
  "key add": KeyAddReport;
  "key list": KeyListReport;
  "key remove": KeyRemoveReport;
  "key show-recovery": KeyShowRecoveryReport;
  "list": ListReport;
  "man": ManReport;
  "pin": PinReport;
  "prune": PruneReport;
  "restore": RestoreDocument;
  "show": ShowReport;
  "size": SizeReport;
  "status": StatusReport;
  "unpin": UnpinReport;
  "verify": VerifyDocument;
}
