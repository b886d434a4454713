/** Why a function of this package failed. */
export class DbkeepError extends Error {
  /**
   * A word for programs: what the binary says in `error.kind` (as `no-repository`, `wrong-password`, `locked`,
   * `busy`, `command-failed`), or one of
   * - `usage`: the call makes no sense;
   * - `binary-missing`, `binary-unusable`, `binary-too-old`: there is no binary that can be used;
   * - `interrupted`: the signal of the call was aborted; the repository and the databases are sound;
   * - `partial`: some databases or copies failed, the others are safe;
   * - `finding`: it is done, and something is damaged;
   * - `crashed`: the binary ended without a document.
   */
  readonly kind: string;
  /** What to do about it. */
  readonly hint: string | undefined;
  /** What the binary ended with; `undefined` where it was not started or a signal ended it. */
  readonly exitCode: number | undefined;
  /** What the command has to tell in spite of the failure. */
  readonly report: unknown;

  constructor(
    kind: string,
    message: string,
    more: { hint?: string | null; exitCode?: number; report?: unknown; cause?: unknown } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    // Code that aborts by a signal asks for this name.
    this.name = kind === "interrupted" ? "AbortError" : "DbkeepError";
    this.kind = kind;
    this.hint = more.hint ?? undefined;
    this.exitCode = more.exitCode;
    this.report = more.report;
  }
}
