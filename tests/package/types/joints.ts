// Compiled, not run: the joints fit the types of the packages they are made for.

import type { LanguageModelMiddleware } from "ai";
import OpenAI from "openai";
import { Guardian, type Verdict } from "slm-guardian";
import { guardianMiddleware } from "slm-guardian/ai";
import type { GuardianTextarea } from "slm-guardian/element";
import { guardedFetch } from "slm-guardian/fetch";
import { createModerations } from "slm-guardian/moderations";
import { guardSession } from "slm-guardian/prompt-api";
import { useGuardian } from "slm-guardian/react";

declare const guardian: Guardian;

export const session: Promise<LanguageModel> = LanguageModel.create().then((session) => guardSession(guardian, session));
export const middleware: LanguageModelMiddleware = guardianMiddleware(guardian, { onError: "allow", preset: "strict" });
export const client = new OpenAI({ apiKey: "", fetch: guardedFetch(guardian) });
export const moderations: Pick<OpenAI["moderations"], never> & { create(body: OpenAI.ModerationCreateParams): Promise<OpenAI.ModerationCreateResponse> } = createModerations(guardian).moderations;
export const element = (): GuardianTextarea => document.createElement("guardian-textarea");
export const state = (): "loading" | "ready" | "error" => useGuardian({ model: "/model/" }).status;
export const verdict: Promise<Verdict> = guardian.screen([{ role: "user", content: "hi" }], { thresholds: { hate: 0.5 }, review: [0.4, 0.6] });

// @ts-expect-error no such category
void guardian.screen("", { thresholds: { violense: 0.5 } });
// @ts-expect-error no such preset
void Guardian.create({ model: "/model/", preset: "lax" });
// @ts-expect-error a model is wanted
void Guardian.create({});
