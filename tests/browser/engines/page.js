// What engines.test.mjs has a browser do that nothing drives: the page does it all by itself, and tells the server step by step.

const said = (step, value) => fetch("/said", { method: "POST", body: JSON.stringify({ step, value }) });
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function read(stream) {
  let text = "";
  for await (const piece of stream) text += piece;
  return text;
}

/** Waits for what `look` finds. */
async function found(look) {
  for (let tries = 0; tries < 600; tries++) {
    const it = look();
    if (it) return it;
    await sleep(100);
  }
  throw new Error(`not found within a minute: ${look}`);
}

async function onTheGpu(Guardian, { prompts, long, harmful }) {
  const guardian = await Guardian.create({ model: "/model/", backend: "webgpu" });
  await said("info", guardian.info);
  const scores = [];
  for (const prompt of [...prompts, long]) scores.push((await guardian.screen(prompt)).score);
  await said("scores", scores);
  await said("batch", (await guardian.screenBatch(prompts)).map(({ score }) => score));
  await said("reply", await guardian.reply(harmful, { force: true, temperature: 0, maxTokens: 6 }));
  await guardian.dispose();
}

async function onTheCpu(Guardian, { prompts, harmful, harmless, crisis }) {
  let guardian = await Guardian.create({ model: "/model/" });
  await said("info", guardian.info);
  const scores = [];
  for (const prompt of prompts) scores.push((await guardian.screen(prompt)).score);
  await said("scores", scores);
  await said("batch", (await guardian.screenBatch(prompts)).map(({ score }) => score));

  await said("reply", await read(guardian.replyStream(harmful, { force: true, temperature: 0, maxTokens: 24 })));
  // Leaving the loop stops the writing: what comes next is not kept waiting for a whole reply.
  let pieces = 0;
  for await (const _ of guardian.replyStream(harmful, { force: true })) if (++pieces === 2) break;
  await said("after a break", { pieces, score: (await guardian.screen(prompts[0])).score });
  const { reply, writer } = await guardian.protect(crisis);
  await said("fixed", { text: reply && (await read(reply)), writer });

  const typed = document.body.appendChild(document.createElement("textarea"));
  const watching = guardian.watch(typed, { onVerdict: () => {} });
  typed.value = prompts[0];
  typed.dispatchEvent(new Event("input"));
  await said("watch", (await watching.current())?.score);
  watching.stop();
  await guardian.dispose();

  guardian = await Guardian.create({ model: "/model/" });
  await said("again", { uncached: guardian.info.uncached, score: (await guardian.screen(prompts[0])).score });
  await guardian.dispose();
  guardian = await Guardian.create({ model: "/model/", cache: "opfs" });
  await guardian.dispose();
  guardian = await Guardian.create({ model: "/model/", cache: "opfs" });
  await said("from OPFS", { uncached: guardian.info.uncached, score: (await guardian.screen(prompts[0])).score });
  await guardian.dispose();
  guardian = await Guardian.create({ model: await fetch("/model.gguf"), cache: "none" });
  await said("from a stream", (await guardian.screen(prompts[0])).score);
  await guardian.dispose();
  guardian = await Guardian.create({ model: "/model/", worker: false });
  await said("without a worker", (await guardian.screen(prompts[0])).score);
  await guardian.dispose();

  (await import("/pkg/element.js")).define();
  const form = document.body.appendChild(document.createElement("form"));
  form.innerHTML = '<guardian-textarea name="prompt" label="Your message" model="/model/"></guardian-textarea><button>Send</button>';
  const sent = [];
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sent.push(new FormData(form).get("prompt"));
  });
  const element = form.firstElementChild;
  element.value = harmful;
  form.requestSubmit();
  await found(() => element.matches(":invalid"));
  const held = sent.length === 0;
  element.value = harmless;
  form.requestSubmit();
  await found(() => sent.length > 0);
  await said("element", { held, sent });
  form.remove();

  const frame = document.body.appendChild(document.createElement("iframe"));
  frame.src = "/";
  const demo = await found(() => frame.contentDocument?.querySelector("body[data-state=ready]"));
  const box = demo.querySelector("#text");
  box.value = harmful;
  box.dispatchEvent(new InputEvent("input", { bubbles: true }));
  box.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
  const card = await found(() => demo.querySelector("#log li[data-state=done], #log li[data-state=failed], #log [data-state=done]"));
  await said("demo", card.textContent);
}

try {
  const texts = await (await fetch("/engines/texts.json")).json();
  const { Guardian } = await import("/pkg/guardian.js");
  await (location.search === "?gpu" ? onTheGpu : onTheCpu)(Guardian, texts);
  await said("end");
} catch (error) {
  await said("failed", `${error?.message}\n${error?.stack}`);
}
