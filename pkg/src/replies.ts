import { GuardianError } from "./errors.js";
import { checkCategory } from "./policy.js";
import type { Category, FixedReplies, Verdict } from "./types.js";

/**
 * A safeguard reply for each category that holds in any country and for whoever asks: what is not helped with, why, and a way on.
 * Give some of them, or your own, to `Guardian.create({ replies })`.
 */
export const REPLIES: Readonly<Record<Category, string>> = {
  violence:
    "I won't help with hurting anyone. If somebody is in danger now, please call your local emergency number. If anger or fear brought you here, move away from " +
    "the person for a while and talk to someone you trust, a counsellor or a mediator. Where someone threatens you, the police can tell you how to get protection.",
  weapons:
    "I won't help make, get or use something built to injure people; it could kill you or those around you before anyone else. If you have come across such a thing, or know of a " +
    "plan, keep your distance and tell the police. Ask freely about history, law or how to store and handle things safely.",
  crime:
    "I won't help with this, because somebody would be robbed, cheated or harmed, and you could face charges. If money or pressure is behind it, a debt or legal advice service can show lawful " +
    "ways out, often free of charge. If somebody is forcing you, the police or a victims' service can help.",
  cyber:
    "I won't help get into, spy on or break systems or accounts that belong to others. If it is your own account or device, its provider's recovery page or support is the safe way back in. " +
    "For a system you are allowed to test, agree on the limits in writing first; a flaw you found by chance is best reported to its owner.",
  hate:
    "I won't join in putting people down for who they are; words like these make lives harder and sometimes open the way to worse. If one person has done you wrong, what they did is worth saying, and " +
    "a complaint or a talk about it gets further. If such words were aimed at you, keep a copy and report them: you don't have to bear it alone.",
  suicide:
    "It sounds as if things may be very hard right now, and it is good that you put it into words. I won't give anything that could be used to hurt yourself, because you matter. Please talk to " +
    "someone today: a crisis line in your country, a doctor, or a person you trust, and ask them to stay with you. If you might act on it, or already have, call your local emergency number now. " +
    "Until then, try to keep away from anything you could use.",
  sexual:
    "I won't write or arrange this; sexual content of this kind can hurt the people in it and those who never agreed to it. Whatever happens between adults needs everyone's free consent. For " +
    "questions about bodies, health or relationships, a doctor or a sexual-health service answers without judging. If someone did something to you that you didn't want, a victims' helpline or the police will listen.",
  minors:
    "I won't go on with this, because a child could be hurt. If a child is in danger now, call your local emergency number; if you saw or heard something, the police or a child protection service " +
    "will follow it up. If you worry about your own thoughts or behaviour towards children, there are confidential services that help before anyone is harmed.",
  privacy:
    "I won't help find out, follow or expose someone who hasn't agreed to it; it can put them in real danger. If you need to reach a person, ask them or someone you both know; for debts, papers or a missing " +
    "person, a lawyer or the police have lawful ways. If someone is watching or exposing you, save the evidence and report it.",
  misinformation:
    "I won't write something made to pass for true when it isn't; people could be hurt by it or act on it. What you can show to be true, or mark clearly as opinion or satire, is another matter. If you doubt a " +
    "claim, look for who first said it and whether sources that don't depend on one another confirm it.",
  advice:
    "I won't advise on this: what looks like a short cut could cost somebody their health, their money or their rights. A doctor or pharmacist, a lawyer or an independent adviser can look at the " +
    "real circumstances, often free or at little cost. If somebody is very unwell or has taken something, call your local emergency number or a poison centre now.",
  jailbreak:
    "I won't set aside the rules that keep this safe, whatever role or story they come in; they protect you and others. If there is something you really need behind it, ask for that directly, and you " +
    "may well get it.",
};

/** Where the model's own words could do most harm. */
const GRAVE: readonly Category[] = ["suicide", "minors", "advice"];
/** From this probability on, a text may be about a life at risk, whichever category is likelier. */
const MAYBE_SUICIDE = 0.2;

/** @internal `replies`, checked and spelt out. */
export function fixedReplies(replies: FixedReplies = "grave"): Partial<Record<Category, string>> {
  if (replies === "model") return {};
  if (replies === "fixed") return REPLIES;
  const grave = Object.fromEntries(GRAVE.map((name) => [name, REPLIES[name]]));
  if (replies === "grave") return grave;
  if (typeof replies !== "object" || replies === null) {
    throw new GuardianError("argument", `replies: ${JSON.stringify(replies)} is neither "grave", "fixed" or "model" nor texts by category`);
  }
  for (const [name, text] of Object.entries(replies)) {
    checkCategory(name, "replies");
    if (text !== null && (typeof text !== "string" || text.trim() === "")) {
      throw new GuardianError("argument", `replies.${name}: a text is wanted, or null for the model's own words`);
    }
  }
  return Object.fromEntries(Object.entries({ ...grave, ...replies }).filter(([, text]) => text !== null));
}

/** @internal The fixed reply that a verdict calls for; `null` leaves it to the model. */
export function fixedReply(verdict: Verdict, replies: Partial<Record<Category, string>>): string | null {
  const { category, categories } = verdict;
  if (category === null) return null;
  const name = replies.suicide !== undefined && categories.suicide >= MAYBE_SUICIDE ? "suicide" : category;
  return replies[name] ?? null;
}
