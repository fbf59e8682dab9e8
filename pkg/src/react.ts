import { useEffect, useRef, useState } from "react";
import { Guardian } from "./guardian.js";
import type { CreateOptions, Progress, ScreenOptions, Verdict } from "./types.js";

/** What `useGuardian` knows. */
export interface GuardianState {
  status: "loading" | "ready" | "error";
  /** Set once `status` is `ready`. */
  guardian: Guardian | null;
  progress: Progress | null;
  error: Error | null;
  /** After an error: tries again. */
  retry: () => void;
}

/**
 * Loads a guardian while the component is mounted and disposes of it afterwards. It is loaded anew when `model`, `backend` or `cache`
 * change; the other options are read when loading begins. On a server it stays `loading`.
 *
 * @example
 * ```tsx
 * const { guardian, status, progress } = useGuardian({ model: "/model/" });
 * const { verdict } = useVerdict(guardian, text);
 * ```
 */
export function useGuardian(options: Omit<CreateOptions, "signal">): GuardianState {
  const [state, setState] = useState<Omit<GuardianState, "retry">>({ status: "loading", guardian: null, progress: null, error: null });
  const [attempt, setAttempt] = useState(0);
  const latest = useRef(options);
  latest.current = options;
  const { model, backend, cache } = options;
  useEffect(() => {
    const abort = new AbortController();
    let created: Guardian | undefined;
    setState({ status: "loading", guardian: null, progress: null, error: null });
    Guardian.create({
      ...latest.current,
      signal: abort.signal,
      onProgress: (progress) => {
        latest.current.onProgress?.(progress);
        if (!abort.signal.aborted) setState((state) => ({ ...state, progress }));
      },
    }).then(
      (guardian) => {
        if (abort.signal.aborted) return void guardian.dispose();
        created = guardian;
        setState({ status: "ready", guardian, progress: null, error: null });
      },
      (error: Error) => {
        if (!abort.signal.aborted) setState({ status: "error", guardian: null, progress: null, error });
      },
    );
    return () => {
      abort.abort();
      void created?.dispose();
    };
  }, [String(model), backend, cache, attempt]);
  return { ...state, retry: () => setAttempt((count) => count + 1) };
}

/**
 * The verdict on `text`, screened once it has stood still for `delay` milliseconds (default 150). `verdict` is `null` until it is
 * about the text as it now is, so that an old one is never shown for a new text.
 */
export function useVerdict(guardian: Guardian | null, text: string, options: ScreenOptions & { delay?: number } = {}): { verdict: Verdict | null; error: Error | null } {
  const [found, setFound] = useState<{ text: string; verdict: Verdict | null; error: Error | null } | null>(null);
  const latest = useRef(options);
  latest.current = options;
  useEffect(() => {
    if (!guardian || text.trim() === "") return;
    const abort = new AbortController();
    const { delay = 150, ...screening } = latest.current;
    const timer = setTimeout(() => {
      guardian.screen(text, { ...screening, signal: abort.signal }).then(
        (verdict) => setFound({ text, verdict, error: null }),
        (error: Error) => {
          if (!abort.signal.aborted) setFound({ text, verdict: null, error });
        },
      );
    }, delay);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [guardian, text]);
  return found?.text === text ? { verdict: found.verdict, error: found.error } : { verdict: null, error: null };
}
