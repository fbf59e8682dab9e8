// What a developer writes in a fresh Vite project: a guarded text box, the custom element, the React hook.
import { createElement as h, useState } from "react";
import { createRoot } from "react-dom/client";
import { Guardian } from "slm-guardian";
import { define } from "slm-guardian/element";
import { useGuardian, useVerdict } from "slm-guardian/react";

// Tests choose a part by the address; a page of one's own has one.
const part = location.hash.slice(1);
globalThis.Guardian = Guardian;

if (part === "quick") {
  // The code of the package's README, put here by build.mjs.
  await import("./quick.js");
  document.body.dataset.ready = "";
}

if (part === "element") {
  globalThis.events = [];
  for (const name of ["ready", "verdict", "error"]) addEventListener(`guardian-${name}`, ({ detail }) => events.push([name, detail?.label ?? detail?.code ?? null]));
  document.querySelector("#element").addEventListener("submit", (event) => {
    event.preventDefault();
    events.push(["submit", new FormData(event.target).get("prompt")]);
  });
  define();
}

if (part === "react") {
  function Box() {
    const { guardian, status, progress, error } = useGuardian({ model: "/model/", backend: "cpu" });
    const [text, setText] = useState("");
    const { verdict } = useVerdict(guardian, text);
    return h("div", null,
      h("p", { id: "status" }, status === "error" ? error.code : status),
      h("p", { id: "loaded" }, progress ? String(progress.loaded) : ""),
      h("textarea", { value: text, onChange: (event) => setText(event.target.value) }),
      h("p", { id: "verdict" }, verdict ? verdict.label : ""));
  }
  function App() {
    const [shown, setShown] = useState(true);
    return h("div", null, h("button", { id: "toggle", onClick: () => setShown(!shown) }, "toggle"), shown && h(Box));
  }
  createRoot(document.querySelector("#react")).render(h(App));
}
