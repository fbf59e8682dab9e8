import { GuardianError } from "./errors.js";
import { gate, textOf, type GateOptions } from "./gate.js";
import type { Guardian } from "./guardian.js";
import { whole } from "./stream.js";
import type { Message } from "./types.js";

export type { GateOptions } from "./gate.js";

export interface GuardedFetchOptions extends GateOptions {
  /** What is called for everything that may go on. Default `globalThis.fetch`. */
  fetch?: typeof globalThis.fetch;
}

/**
 * A `fetch` for OpenAI-compatible endpoints: the last user message of a chat completion is screened before anything is sent. An
 * unsafe one is never sent; the safeguard reply comes back in the endpoint's own shape, streamed if a stream was asked for, with
 * `finish_reason: "content_filter"` and the header `x-slm-guardian: unsafe`. Other requests pass untouched.
 *
 * @example
 * ```ts
 * import OpenAI from "openai";
 * const openai = new OpenAI({ baseURL, apiKey, fetch: guardedFetch(guardian) });
 * ```
 */
export function guardedFetch(guardian: Guardian, options: GuardedFetchOptions = {}): typeof globalThis.fetch {
  const { fetch = (...call: Parameters<typeof globalThis.fetch>) => globalThis.fetch(...call), ...rest } = options;
  return async (input, init) => {
    const request = new Request(input, init);
    if (request.method !== "POST" || !/\/chat\/completions\/?$/.test(new URL(request.url).pathname)) return fetch(input, init);
    const text = await request.clone().text();
    let body: { messages?: { role?: string; content?: unknown }[]; model?: string; stream?: boolean };
    let reply: ReadableStream<string> | null;
    try {
      body = JSON.parse(text) as typeof body;
      reply = await gate(guardian, turns(body.messages), rest, init?.signal ?? request.signal);
    } catch (error) {
      if (error instanceof SyntaxError || error instanceof GuardianError) return refused(error);
      throw error;
    }
    if (reply === null) return fetch(request);
    const head = { id: `chatcmpl-guardian-${crypto.randomUUID()}`, created: Math.floor(Date.now() / 1000), model: body.model ?? guardian.info.model };
    return body.stream ? streamed(reply, head) : complete(reply, head);
  };
}

const HEADERS = { "x-slm-guardian": "unsafe" };

async function complete(reply: ReadableStream<string>, head: object): Promise<Response> {
  const content = await whole(reply);
  return Response.json(
    {
      ...head,
      object: "chat.completion",
      choices: [{ index: 0, message: { role: "assistant", content, refusal: null }, logprobs: null, finish_reason: "content_filter" }],
      usage: { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 },
    },
    { headers: HEADERS },
  );
}

/** Server-sent events, as the endpoint streams them. */
function streamed(reply: ReadableStream<string>, head: object): Response {
  const event = (delta: object, finish_reason: string | null) =>
    `data: ${JSON.stringify({ ...head, object: "chat.completion.chunk", choices: [{ index: 0, delta, logprobs: null, finish_reason }] })}\n\n`;
  const events = reply.pipeThrough(
    new TransformStream<string, string>({
      start: (controller) => controller.enqueue(event({ role: "assistant", content: "" }, null)),
      transform: (content, controller) => controller.enqueue(event({ content }, null)),
      flush: (controller) => {
        controller.enqueue(event({}, "content_filter"));
        controller.enqueue("data: [DONE]\n\n");
      },
    }),
  );
  return new Response(events.pipeThrough(new TextEncoderStream()), { headers: { ...HEADERS, "content-type": "text/event-stream" } });
}

/** A body that can't be screened is refused as the endpoint refuses a bad one; a client must not try it again. */
function refused(error: Error): Response {
  const code = error instanceof GuardianError ? error.code : "input";
  return Response.json({ error: { message: `not sent: ${error.message}`, type: "guardian_error", param: null, code } }, { status: 400, headers: { "x-slm-guardian": "error" } });
}

/** The conversation up to its last user message; what tools and the system said stays out. */
function turns(messages: { role?: string; content?: unknown }[] | undefined): Message[] {
  if (!Array.isArray(messages)) throw new GuardianError("input", "the body has no messages");
  const found: Message[] = [];
  messages.forEach(({ role, content }, index) => {
    if ((role === "user" || role === "assistant") && content != null) found.push({ role, content: textOf(content, `messages[${index}]`) });
  });
  while (found.length > 0 && found.at(-1)?.role !== "user") found.pop();
  return found;
}
