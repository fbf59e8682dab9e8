import { GuardianError } from "./errors.js";
import type { Input, ScreenOptions, Verdict, Watch, Watchable, WatchOptions } from "./types.js";

/** @internal Screens `input`'s value whenever typing pauses, and at most one value at a time. */
export function watch(screen: (input: Input, options: ScreenOptions) => Promise<Verdict>, input: Watchable, options: WatchOptions): Watch {
  const { onVerdict, onError, delay = 150, signal, ...policy } = options;
  if (typeof input?.value !== "string" || typeof input.addEventListener !== "function") {
    throw new GuardianError("argument", "watch: an input or a textarea is wanted, something with a value that fires `input`");
  }
  if (typeof onVerdict !== "function") throw new GuardianError("argument", "watch: onVerdict is wanted");
  let timer: ReturnType<typeof setTimeout> | undefined;
  let running: { text: string; verdict: Promise<Verdict | null>; abort: AbortController } | undefined;

  const run = (): Promise<Verdict | null> => {
    clearTimeout(timer);
    const text = input.value;
    if (running?.text === text) return running.verdict;
    // A call that has not begun is dropped; the engine finishes the one it is in, and its cache serves the next.
    running?.abort.abort();
    const abort = new AbortController();
    const verdict = text.trim() === "" ? Promise.resolve(null) : screen(text, { ...policy, signal: abort.signal });
    const mine = (running = { text, verdict, abort });
    verdict.then(
      (found) => {
        if (running === mine) onVerdict(found, text);
      },
      (error: Error) => {
        if (running !== mine) return;
        // Typing on, or asking again, tries again.
        running = undefined;
        if (onError) onError(error, text);
        else reportError(error);
      },
    );
    return verdict;
  };
  const changed = () => {
    clearTimeout(timer);
    timer = setTimeout(() => void run().catch(() => {}), delay);
  };
  const stop = () => {
    clearTimeout(timer);
    input.removeEventListener("input", changed);
    signal?.removeEventListener("abort", stop);
    const last = running;
    running = undefined;
    last?.abort.abort();
  };
  signal?.throwIfAborted();
  signal?.addEventListener("abort", stop);
  input.addEventListener("input", changed);
  if (input.value !== "") changed();

  const current = async (): Promise<Verdict | null> => {
    for (;;) {
      const text = input.value;
      try {
        const verdict = await run();
        // Typed on meanwhile: that verdict is about another text.
        if (input.value === text) return verdict;
      } catch (error) {
        if (input.value === text) throw error;
      }
    }
  };
  return { current, stop, [Symbol.dispose ?? Symbol.for("Symbol.dispose")]: stop } as Watch;
}
