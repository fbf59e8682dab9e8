import type { Runtime } from "./runtime.js";
import type { Answer, Request } from "./types.js";

/** @internal What takes requests and answers them: a worker, or a runtime on this thread. */
export interface Port {
  postMessage(request: Request): void;
  onAnswer(receive: (answer: Answer) => void, fail: (message: string) => void): void;
  terminate(): void;
}

/** @internal What differs between a page and Node. */
export interface Platform {
  /** Whether the default is a worker. */
  worker: boolean;
  /** The runtime, where it must not be imported later: service workers forbid that. */
  runtime?: typeof Runtime;
  /** What relative URLs are relative to. */
  base(): string;
  /** The address of the compiled crate, or its bytes. */
  wasm?: () => Promise<URL | Uint8Array>;
  /** Reads a file by URL where `fetch` does not. */
  open?: (url: URL) => Promise<Response | undefined>;
}

/** @internal Pages, workers and service workers. */
export const browser: Platform = {
  worker: true,
  base: () => (typeof document === "undefined" ? globalThis.location.href : document.baseURI),
};

/** @internal */
export function workerPort(worker: Worker): Port {
  return {
    postMessage: (request) => worker.postMessage(request),
    onAnswer: (receive, fail) => {
      worker.onmessage = ({ data }: MessageEvent<Answer>) => receive(data);
      worker.onerror = (event) => {
        event.preventDefault();
        fail(`the worker failed: ${event.message || "its script can't be loaded"}`);
      };
    },
    terminate: () => worker.terminate(),
  };
}

/** @internal */
export function localPort(make: (post: (answer: Answer) => void) => Runtime): Port {
  let receive: (answer: Answer) => void = () => {};
  const runtime = make((answer) => receive(answer));
  return {
    postMessage: (request) => runtime.receive(request),
    onAnswer: (onAnswer) => {
      receive = onAnswer;
    },
    terminate: () => runtime.close(),
  };
}

/** The smallest module that uses a SIMD instruction. */
const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);

/** @internal Whether this WebAssembly can run the engine at all. */
export const runs = (): boolean => typeof WebAssembly === "object" && WebAssembly.validate(SIMD);
