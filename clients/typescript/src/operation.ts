import type { DbkeepEvent } from "./reports.js";

/** So many events wait for a reader; then the oldest go. */
const KEPT = 1000;

/** Somebody who iterates over the events. */
class Reader {
  private readonly waiting: DbkeepEvent[] = [];
  private wake: (() => void) | undefined;

  push(event: DbkeepEvent): void {
    this.waiting.push(event);
    if (this.waiting.length > KEPT) this.waiting.shift();
    this.wake?.();
  }

  /** Yields the events until `done`, and then rejects where that was a failure. */
  async *read(done: Promise<unknown>): AsyncGenerator<DbkeepEvent, void, undefined> {
    const state = { ended: false };
    const end = () => {
      state.ended = true;
      this.wake?.();
    };
    done.then(end, end);
    for (;;) {
      const event = this.waiting.shift();
      if (event !== undefined) {
        yield event;
      } else if (state.ended) {
        await done;
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.wake = resolve;
        });
      }
    }
  }
}

/**
 * What is being done: a promise of the result that can be asked for its progress meanwhile.
 *
 * ```ts
 * const backup = createBackup({ databases: ["app.db"] });
 * for await (const event of backup.progress()) console.error(event);
 * console.log((await backup).timestamp);
 * ```
 */
export class Operation<T> implements Promise<T> {
  readonly [Symbol.toStringTag] = "Operation";
  private readonly result: Promise<T>;
  private readonly readers = new Set<Reader>();

  /** Begins `work`, which tells its events to its argument. */
  constructor(work: (tell: (event: DbkeepEvent) => void) => Promise<T>) {
    // Nothing happens before the caller has had the time to ask for the progress.
    this.result = Promise.resolve().then(() => work((event) => this.tell(event)));
  }

  /**
   * Iterates over the events from now on, until it is done. A failure is thrown at the end, as by awaiting the
   * operation itself. May be called several times.
   */
  progress(): AsyncIterableIterator<DbkeepEvent> {
    const reader = new Reader();
    this.readers.add(reader);
    // Whoever reads to the end sees the failure there.
    this.result.catch(() => undefined);
    return reader.read(this.result);
  }

  then<A = T, B = never>(
    fulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    // eslint-disable-next-line @typescript-eslint/no-explicit-any -- as promises have it
    rejected?: ((reason: any) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.result.then(fulfilled, rejected);
  }

  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- as promises have it
  catch<B = never>(rejected?: ((reason: any) => B | PromiseLike<B>) | null): Promise<T | B> {
    return this.result.catch(rejected);
  }

  finally(settled?: (() => void) | null): Promise<T> {
    return this.result.finally(settled);
  }

  private tell(event: DbkeepEvent): void {
    for (const reader of this.readers) reader.push(event);
  }
}
