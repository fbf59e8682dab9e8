import type { Message } from "slm-guardian";
import type { Choices } from "./store.js";

/** A failure of the assistant, in words for the visitor. */
export class AssistantError extends Error {}

/** The part of Chrome's Prompt API that is used here. */
interface LanguageModelSession {
  promptStreaming(input: string, options?: { signal?: AbortSignal }): ReadableStream<string>;
  destroy(): void;
}
/** Chrome wants to know what will be written; the guardian reads English best. */
const languages = { expectedOutputs: [{ type: "text", languages: ["en"] }] };
interface LanguageModelApi {
  availability(options: typeof languages): Promise<"unavailable" | "downloadable" | "downloading" | "available">;
  create(options: typeof languages & {
    initialPrompts?: Message[];
    signal?: AbortSignal;
    monitor?: (monitor: EventTarget) => void;
  }): Promise<LanguageModelSession>;
}
const api = (): LanguageModelApi | undefined => (globalThis as { LanguageModel?: LanguageModelApi }).LanguageModel;

/** Whether this browser has a model of its own. */
export async function builtin(): Promise<"unavailable" | "downloadable" | "downloading" | "available"> {
  try {
    return (await api()?.availability(languages)) ?? "unavailable";
  } catch {
    return "unavailable";
  }
}

/** Has the browser fetch its model; must be called from a click. */
export async function fetchBuiltin(onProgress: (part: number) => void): Promise<void> {
  const session = await api()?.create({
    ...languages,
    monitor: (monitor) => monitor.addEventListener("downloadprogress", (event) => onProgress((event as ProgressEvent).loaded)),
  });
  session?.destroy();
}

export function assistantName({ assistant, address }: Readonly<Choices>): string {
  return assistant === "builtin" ? "This browser’s own model" : place(address)?.host ?? "Assistant";
}

/** The answer of the assistant that was chosen, as it is written. */
export function answer(turns: Message[], choices: Readonly<Choices>, signal: AbortSignal): ReadableStream<string> {
  const pieces = choices.assistant === "builtin" ? fromBuiltin(turns, signal) : fromAddress(turns, choices, signal);
  return new ReadableStream<string>({
    async pull(controller) {
      const { done, value } = await pieces.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    async cancel() {
      await pieces.return(undefined);
    },
  });
}

async function* fromBuiltin(turns: Message[], signal: AbortSignal): AsyncGenerator<string, undefined> {
  const session = await api()?.create({ ...languages, initialPrompts: turns.slice(0, -1), signal });
  if (!session) throw new AssistantError("This browser has no model of its own.");
  try {
    yield* chunks(session.promptStreaming(turns.at(-1)?.content ?? "", { signal }));
  } finally {
    session.destroy();
  }
  return undefined;
}

/** The address that chat completions are asked of: `/v1`, or the whole of it. */
export function place(address: string): URL | undefined {
  try {
    const url = new URL(address.trim() || "/v1", document.baseURI);
    if (!/^https?:$/.test(url.protocol)) return undefined;
    if (!/\/chat\/completions\/?$/.test(url.pathname)) url.pathname = `${url.pathname.replace(/\/$/, "")}/chat/completions`;
    return url;
  } catch {
    return undefined;
  }
}

async function* fromAddress(turns: Message[], choices: Readonly<Choices>, signal: AbortSignal): AsyncGenerator<string, undefined> {
  const url = place(choices.address);
  if (!url) throw new AssistantError("That is not an address. Correct it in the settings.");
  const headers: Record<string, string> = { "content-type": "application/json" };
  if (choices.addressKey !== "") headers.authorization = `Bearer ${choices.addressKey}`;
  const body: Record<string, unknown> = { messages: turns, stream: true };
  if (choices.addressModel !== "") body.model = choices.addressModel;
  const response = await post(url, headers, JSON.stringify(body), signal);
  if (!response.ok) throw new AssistantError(`${url.host} answered ${response.status}${await reason(response)}`);
  if (/json/.test(response.headers.get("content-type") ?? "")) {
    yield ((await response.json()) as Completion).choices?.[0]?.message?.content ?? "";
    return undefined;
  }
  if (!response.body) throw new AssistantError(`${url.host} answered nothing.`);
  // Server-sent events: an event's lines may be cut anywhere by the network.
  let rest = "";
  for await (const text of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return undefined;
      const piece = delta(data);
      if (piece !== "") yield piece;
    }
  }
  return undefined;
}

interface Completion {
  choices?: { delta?: { content?: string | null }; message?: { content?: string } }[];
  error?: { message?: string };
}

function delta(data: string): string {
  let event: Completion;
  try {
    event = JSON.parse(data) as Completion;
  } catch {
    throw new AssistantError("The server’s answer can’t be read: it is not in OpenAI’s form.");
  }
  if (event.error) throw new AssistantError(`The server says: ${event.error.message ?? "an error"}`);
  return event.choices?.[0]?.delta?.content ?? "";
}

async function post(url: URL, headers: Record<string, string>, body: string, signal: AbortSignal): Promise<Response> {
  let refused = false;
  const onViolation = () => (refused = true);
  document.addEventListener("securitypolicyviolation", onViolation);
  try {
    return await fetch(url, { method: "POST", headers, body, signal });
  } catch (error) {
    signal.throwIfAborted();
    // The violation is reported a moment after the failure.
    await new Promise((resolve) => setTimeout(resolve, 50));
    if (refused) throw new AssistantError(`This page’s security policy lets it reach only its own address, so ${url.origin} was not asked and nothing was sent. ${widen(url)}`);
    throw new AssistantError(`${url.host} can’t be reached: ${(error as Error).message}. ${url.origin === location.origin ? "" : "It may not be running, or not allow requests from this page (CORS)."}`);
  } finally {
    document.removeEventListener("securitypolicyviolation", onViolation);
  }
}

/** What whoever hosts the page has to do for an address elsewhere. */
export const widen = (url: URL): string => `Whoever hosts this page can allow it by adding ${url.origin} to connect-src in the page’s Content-Security-Policy.`;

async function reason(response: Response): Promise<string> {
  const text = await response.text().catch(() => "");
  try {
    const { error } = JSON.parse(text) as Completion;
    return error?.message ? `: ${error.message}` : ".";
  } catch {
    return response.statusText ? ` (${response.statusText}).` : ".";
  }
}

/** A stream's chunks, in browsers whose streams can't be iterated yet. */
async function* chunks(stream: ReadableStream<string>): AsyncGenerator<string> {
  const reader = stream.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
  } finally {
    await reader.cancel().catch(() => {});
  }
}
