import type { LanguageModelMiddleware } from "ai";
import { gate, textOf, type GateOptions } from "./gate.js";
import type { Guardian } from "./guardian.js";
import { whole } from "./stream.js";
import type { Message } from "./types.js";

export type { GateOptions } from "./gate.js";

type Generate = NonNullable<LanguageModelMiddleware["wrapGenerate"]>;
type Prompt = Parameters<Generate>[0]["params"]["prompt"];

const FINISH = { unified: "content-filter", raw: "slm-guardian" } as const;
const NONE = { total: 0, noCache: undefined, cacheRead: undefined, cacheWrite: undefined };
const USAGE = { inputTokens: NONE, outputTokens: { total: 0, text: 0, reasoning: undefined } };

/**
 * Middleware for the AI SDK: the last user message is screened before the model is called. An unsafe one never reaches the model;
 * the safeguard reply comes in its place with the finish reason `content-filter`.
 *
 * @example
 * ```ts
 * import { streamText, wrapLanguageModel } from "ai";
 * const model = wrapLanguageModel({ model: any, middleware: guardianMiddleware(guardian) });
 * ```
 */
export function guardianMiddleware(guardian: Guardian, options: GateOptions = {}): LanguageModelMiddleware {
  return {
    specificationVersion: "v3",
    wrapGenerate: async ({ doGenerate, params }) => {
      const reply = await gate(guardian, turns(params.prompt), options, params.abortSignal);
      if (reply === null) return doGenerate();
      return { content: [{ type: "text", text: await whole(reply) }], finishReason: FINISH, usage: USAGE, warnings: [] };
    },
    wrapStream: async ({ doStream, params }) => {
      const reply = await gate(guardian, turns(params.prompt), options, params.abortSignal);
      if (reply === null) return doStream();
      const id = "guardian";
      type Part = Awaited<ReturnType<typeof doStream>>["stream"] extends ReadableStream<infer P> ? P : never;
      const stream = reply.pipeThrough(
        new TransformStream<string, Part>({
          start: (controller) => {
            controller.enqueue({ type: "stream-start", warnings: [] });
            controller.enqueue({ type: "text-start", id });
          },
          transform: (delta, controller) => controller.enqueue({ type: "text-delta", id, delta }),
          flush: (controller) => {
            controller.enqueue({ type: "text-end", id });
            controller.enqueue({ type: "finish", finishReason: FINISH, usage: USAGE });
          },
        }),
      );
      return { stream };
    },
  };
}

/** The conversation up to its last user message. After it may stand tool calls: those steps were screened with that message. */
function turns(prompt: Prompt): Message[] {
  const found: Message[] = [];
  prompt.forEach(({ role, content }, index) => {
    if (role === "user") found.push({ role, content: textOf(content, `prompt[${index}]`) });
    if (role === "assistant") {
      const text = content.flatMap((part) => (part.type === "text" ? part.text : [])).join("\n");
      if (text !== "") found.push({ role, content: text });
    }
  });
  while (found.length > 0 && found.at(-1)?.role !== "user") found.pop();
  return found;
}
