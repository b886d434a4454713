import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { findBinary } from "./binary.js";
import { DbkeepError } from "./error.js";
import { type CommonOptions, environment, globalArguments } from "./options.js";
import type { DbkeepEvent, ErrorReport } from "./reports.js";

/** How a command ended. */
export interface Ended<R> {
  /** What it printed; only its error, or a part, where it failed. */
  report: Partial<R>;
  /** What it ended with. */
  exitCode: number;
  /** Why it did not do all that was asked. */
  error?: DbkeepError;
}

/** Hears what a command tells while it runs. */
export interface Listener {
  event(event: DbkeepEvent): void;
  /** A line on standard error that is no event: what a guarded command printed. */
  line?(text: string): void;
}

/** The end of what a binary said that ended without a document. */
const LAST_WORDS = 20;

/** Runs the binary to its end. A command that failed is no rejection here; one that cannot be started is. */
export async function run<R>(words: string[], options: CommonOptions, listener: Listener): Promise<Ended<R>> {
  refuseAborted(options.signal);
  const binary = await findBinary(options);
  refuseAborted(options.signal);
  const child = spawn(binary, [...globalArguments(options), ...words], {
    cwd: options.cwd,
    env: environment(options),
    stdio: ["ignore", "pipe", "pipe"],
  });
  const stop = () => child.kill("SIGINT");
  options.signal?.addEventListener("abort", stop);
  try {
    return await end<R>(child, options, listener);
  } finally {
    options.signal?.removeEventListener("abort", stop);
  }
}

function refuseAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) {
    throw new DbkeepError("interrupted", "aborted before it began", { cause: signal.reason });
  }
}

async function end<R>(child: ChildProcess, options: CommonOptions, listener: Listener): Promise<Ended<R>> {
  const printed: Buffer[] = [];
  child.stdout?.on("data", (data: Buffer) => printed.push(data));
  const lastWords: string[] = [];
  const lines = child.stderr && createInterface({ input: child.stderr, crlfDelay: Number.POSITIVE_INFINITY });
  lines?.on("line", (line) => {
    const event = eventOf(line);
    if (event !== undefined) {
      listener.event(event);
      options.onEvent?.(event);
      return;
    }
    lastWords.push(line);
    if (lastWords.length > LAST_WORDS) lastWords.shift();
    listener.line?.(line);
  });
  const [exitCode, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
    child.on("error", (cause) => {
      reject(
        new DbkeepError("binary-unusable", `${child.spawnfile} could not be started: ${cause.message}`, { cause }),
      );
    });
    child.on("close", (code, by) => resolve([code, by]));
  });
  const report = documentOf<R>(Buffer.concat(printed).toString("utf8"));
  if (exitCode === null || report === undefined) {
    const how = signal ?? `exit code ${exitCode}`;
    throw new DbkeepError("crashed", `dbkeep ended with ${how} and without a document`, {
      hint: lastWords.join("\n") || "run the same command by hand to see what it says",
      ...(exitCode === null ? {} : { exitCode }),
    });
  }
  return { report, exitCode, ...failure(report, exitCode, options.signal) };
}

function documentOf<R>(text: string): Partial<R> | undefined {
  try {
    return JSON.parse(text) as Partial<R>;
  } catch {
    return undefined;
  }
}

const EVENTS = new Set(["phase", "progress", "step", "message", "warning", "error"]);

function eventOf(line: string): DbkeepEvent | undefined {
  if (!line.startsWith('{"event":')) return undefined;
  try {
    const event = JSON.parse(line) as DbkeepEvent;
    return EVENTS.has(event.event) ? event : undefined;
  } catch {
    return undefined;
  }
}

/** Returns why a command did not do all that was asked, from its document and its exit code. */
function failure(report: unknown, exitCode: number, signal: AbortSignal | undefined): { error?: DbkeepError } {
  const told = (report as { error?: ErrorReport | null }).error;
  if (exitCode === 0) return {};
  const more = { exitCode, report, hint: told?.hint ?? null };
  if (signal?.aborted && exitCode !== 3 && exitCode !== 4) {
    const message = told?.message ?? "interrupted";
    return { error: new DbkeepError("interrupted", message, { ...more, cause: signal.reason }) };
  }
  if (told) return { error: new DbkeepError(told.kind, told.message, more) };
  return { error: unsaid(report, exitCode) };
}

/** Returns the error of a command that is partly done, or that found something: its document has no error. */
function unsaid(report: unknown, exitCode: number): DbkeepError {
  const isPartly = exitCode === 3;
  const fallback = isPartly ? "a part of it failed" : "it is done, and something needs eyes";
  const message = wrongs(report).join("; ") || fallback;
  return new DbkeepError(isPartly ? "partial" : "finding", message, { exitCode, report });
}

/** Returns what is wrong in the parts of a document: a sentence each. */
function wrongs(report: unknown): string[] {
  const found: string[] = [];
  for (const parts of Object.values(report as Record<string, unknown>)) {
    for (const part of Array.isArray(parts) ? parts : []) {
      const why = wrong(part as Part);
      if (why !== undefined) found.push(why);
    }
  }
  return found;
}

/** What the parts of documents have in common. */
interface Part {
  name?: string;
  database?: string | null;
  status?: string;
  integrity?: string;
  findings?: unknown[];
  why?: string;
  error?: ErrorReport | string | null;
}

function wrong(part: Part): string | undefined {
  const name = part.name ?? part.database ?? undefined;
  const said = (text: string) => (name === undefined ? text : `${name}: ${text}`);
  if (part.error) return said(typeof part.error === "string" ? part.error : part.error.message);
  if (typeof part.findings?.[0] === "string") return said(part.findings[0]);
  if (part.why !== undefined) return said(part.why);
  return part.status === "corrupt" ? said(`damaged: ${part.integrity}`) : undefined;
}
