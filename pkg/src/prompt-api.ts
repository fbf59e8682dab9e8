import { gate, textOf, type GateOptions } from "./gate.js";
import type { Guardian } from "./guardian.js";
import { iterable, whole } from "./stream.js";
import type { Message } from "./types.js";

export type { GateOptions } from "./gate.js";

/** What a session of the Prompt API must have. */
export interface PromptSession {
  prompt(input: never, options?: { signal?: AbortSignal }): Promise<string>;
  promptStreaming(input: never, options?: { signal?: AbortSignal }): ReadableStream<string>;
}

/**
 * Guards a session of the browser's built-in model: `prompt` and `promptStreaming` screen their input first and give the safeguard
 * reply in place of the model's answer where it is unsafe. Everything else is the session's own.
 *
 * @example
 * ```ts
 * const session = guardSession(guardian, await LanguageModel.create());
 * for await (const piece of session.promptStreaming(text)) show(piece);
 * ```
 */
export function guardSession<S extends PromptSession>(guardian: Guardian, session: S, options: GateOptions = {}): S {
  type Ask = { signal?: AbortSignal } | undefined;
  const own = {
    prompt: async (input: unknown, ask: Ask) => {
      const reply = await gate(guardian, turns(input), options, ask?.signal);
      return reply === null ? session.prompt(input as never, ask) : whole(reply);
    },
    promptStreaming: (input: unknown, ask: Ask) => {
      let reader: ReadableStreamDefaultReader<string> | undefined;
      return iterable(new ReadableStream<string>({
        start: async () => {
          const reply = await gate(guardian, turns(input), options, ask?.signal);
          reader = (reply ?? session.promptStreaming(input as never, ask)).getReader();
        },
        pull: async (controller) => {
          const next = await reader?.read();
          if (!next || next.done) controller.close();
          else controller.enqueue(next.value);
        },
        cancel: (reason) => reader?.cancel(reason),
      }));
    },
    clone: async (...call: unknown[]) => guardSession(guardian, await (session as unknown as { clone(...call: unknown[]): Promise<S> }).clone(...call), options),
  };
  return new Proxy(session, {
    get: (target, name) => {
      if (Object.hasOwn(own, name) && name in target) return own[name as keyof typeof own];
      // Platform objects refuse to be called through a proxy: methods are bound to the session itself.
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? (value as (...call: unknown[]) => unknown).bind(target) : value;
    },
    set: (target, name, value) => Reflect.set(target, name, value, target),
  });
}

function turns(input: unknown): Message[] {
  if (typeof input === "string") return [{ role: "user", content: input }];
  const found: Message[] = [];
  (Array.isArray(input) ? input : [input]).forEach(({ role, content }: { role: string; content: unknown }, index) => {
    if (role === "user" || role === "assistant") found.push({ role, content: textOf(content, `input[${index}]`) });
  });
  while (found.length > 0 && found.at(-1)?.role !== "user") found.pop();
  return found;
}
