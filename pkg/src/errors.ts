/** What went wrong, in words that do not change between versions. */
export type ErrorCode =
  | "model-format"
  | "model-unsupported"
  | "integrity"
  | "network"
  | "input"
  | "context-overflow"
  | "unsupported"
  | "gpu-unavailable"
  | "device-lost"
  | "self-test"
  | "argument"
  | "disposed"
  | "internal";

/** Every failure but an aborted call, which rejects with a `DOMException` named `AbortError`. */
export class GuardianError extends Error {
  /** Stable; match on this, not on the message. */
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string) {
    super(message);
    this.name = "GuardianError";
    this.code = code;
  }
}

/** Anything thrown, as a `GuardianError`; an `AbortError` stays what it is. */
export function toGuardianError(thrown: unknown): Error {
  if (thrown instanceof GuardianError || (thrown instanceof DOMException && thrown.name === "AbortError")) return thrown;
  const { code, message } = thrown as { code?: unknown; message?: unknown };
  const text = typeof message === "string" ? message : String(thrown);
  return new GuardianError(typeof code === "string" ? (code as ErrorCode) : "internal", text);
}
