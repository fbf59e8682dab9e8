import { GuardianError } from "./errors.js";
import type { Guardian } from "./guardian.js";
import type { FixedReplies, Input, Policy, Verdict } from "./types.js";

/** What the ready-made joints take beside the guardian. */
export interface GateOptions extends Policy {
  /** What happens to a message that can't be screened: `block`, the default, rejects; `allow` lets it pass unscreened. */
  onError?: "block" | "allow";
  /** Which safeguard replies are fixed texts. Default: as `Guardian.create` was given it. */
  replies?: FixedReplies;
  /** Called with every verdict. */
  onVerdict?: (verdict: Verdict, input: Input) => void;
}

/** @internal The safeguard reply to an unsafe input; `null` lets it pass. */
export async function gate(guardian: Guardian, input: Input, options: GateOptions, signal?: AbortSignal): Promise<ReadableStream<string> | null> {
  const { onError = "block", onVerdict, ...policy } = options;
  try {
    const { verdict, reply } = await guardian.protect(input, signal ? { ...policy, signal } : policy);
    onVerdict?.(verdict, input);
    return reply;
  } catch (error) {
    // A wrong option is the caller's mistake, not a failure of screening.
    const failed = error instanceof GuardianError && error.code !== "argument";
    if (failed && onError === "allow") return null;
    throw error;
  }
}

/** @internal The text of a chat message's content: a text, or parts of which every one must be text. */
export function textOf(content: unknown, where: string): string {
  if (typeof content === "string") return content;
  if (Array.isArray(content)) {
    return content
      .map((part: { type?: string; text?: unknown; value?: unknown }) => {
        const text = typeof part === "string" ? part : (part?.text ?? part?.value);
        if (typeof text === "string") return text;
        throw new GuardianError("input", `${where}: only text can be screened, this is ${JSON.stringify(part?.type ?? typeof part)}`);
      })
      .join("\n");
  }
  throw new GuardianError("input", `${where}: neither a text nor a list of parts`);
}
