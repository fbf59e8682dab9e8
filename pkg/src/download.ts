import { GuardianError } from "./errors.js";
import { chunks } from "./stream.js";

const PART = 4 * 1024 * 1024;
/** Parts in flight: a few connections fill a line that one does not, and bound what is held to PARALLEL * PART. */
const PARALLEL = 3;
const RETRIES = 4;
const FIRST_PAUSE = 400;

/** @internal How a file is fetched; Node has its own for `file:`. */
export type Fetch = (url: string, init: { signal: AbortSignal; headers?: Record<string, string>; cache?: RequestCache }) => Promise<Response>;

/**
 * @internal Streams a file of `size` bytes in order, in parts fetched side by side where the server answers ranges. A broken connection
 * goes on where it stopped.
 */
export async function* download(fetch: Fetch, url: string, size: number, signal: AbortSignal): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const first = Math.min(PART, size);
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);
  try {
    const opening = await open(fetch, url, 0, first, either);
    if (opening.status !== 206) {
      yield* range(fetch, url, 0, size, either, opening);
      return;
    }
    const total = Number(/\/(\d+)$/.exec(opening.headers.get("content-range") ?? "")?.[1]);
    if (Number.isFinite(total) && total !== size) {
      throw new GuardianError("integrity", `${url} has ${total} bytes, the manifest states ${size}`);
    }
    const parts: Promise<Uint8Array<ArrayBuffer>[]>[] = [];
    const begin = (from: number, response?: Response) => {
      const part = collect(range(fetch, url, from, Math.min(from + PART, size), either, response));
      // Whoever awaits it sees the failure; until then it must not count as unhandled.
      part.catch(() => {});
      parts.push(part);
    };
    begin(0, opening);
    for (let next = first; parts.length > 0; ) {
      while (parts.length < PARALLEL && next < size) {
        begin(next);
        next += PART;
      }
      yield* await (parts.shift() as Promise<Uint8Array<ArrayBuffer>[]>);
    }
  } finally {
    stop.abort();
  }
}

async function collect(chunks: AsyncIterable<Uint8Array<ArrayBuffer>>): Promise<Uint8Array<ArrayBuffer>[]> {
  const all = [];
  for await (const chunk of chunks) all.push(chunk);
  return all;
}

/** Bytes `from` up to `to`, tried again from where it broke off. */
async function* range(fetch: Fetch, url: string, from: number, to: number, signal: AbortSignal, opened?: Response): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  let at = from;
  let response = opened;
  for (let failures = 0; at < to; ) {
    try {
      response ??= await open(fetch, url, at, to, signal);
      // A server that knows no ranges sends the file from its start.
      let skip = response.status === 206 ? 0 : at;
      for await (const chunk of body(response)) {
        const useful = chunk.subarray(skip, skip + to - at);
        skip = Math.max(0, skip - chunk.byteLength);
        if (useful.byteLength === 0) continue;
        at += useful.byteLength;
        failures = 0;
        yield useful;
        if (at >= to) return;
      }
      throw new Error(`it ended after ${at} of ${to} bytes`);
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof GuardianError || ++failures > RETRIES) {
        throw error instanceof GuardianError ? error : new GuardianError("network", `${url} broke off: ${(error as Error).message}`);
      }
      await pause(FIRST_PAUSE * 2 ** (failures - 1), signal);
    }
    response = undefined;
  }
}

async function open(fetch: Fetch, url: string, from: number, to: number, signal: AbortSignal): Promise<Response> {
  for (let failures = 0; ; ) {
    let problem: string;
    try {
      const response = await fetch(url, { signal, headers: { range: `bytes=${from}-${to - 1}` } });
      if (response.ok) return response;
      problem = `${url} answers ${response.status} ${response.statusText}`;
      if (response.status < 500 && response.status !== 408 && response.status !== 429) throw new GuardianError("network", problem);
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof GuardianError) throw error;
      problem = `${url} can't be fetched: ${(error as Error).message}`;
    }
    if (++failures > RETRIES) throw new GuardianError("network", problem);
    await pause(FIRST_PAUSE * 2 ** (failures - 1), signal);
  }
}

/** @internal A response's chunks; leaving the loop early ends the transfer. */
export function body(response: Response): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  if (!response.body) throw new Error("it came without a body");
  return chunks(response.body);
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      if (signal.aborted) reject(signal.reason as Error);
      else resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener("abort", done);
  });
}
