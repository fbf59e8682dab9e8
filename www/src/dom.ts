/** The element that the page is known to have. */
export function find<T extends Element = HTMLElement>(selector: string): T {
  const element = document.querySelector<T>(selector);
  if (!element) throw new Error(`the page lacks ${selector}`);
  return element;
}

/** An HTML element with a class and children; strings become text, never HTML. */
export function make<K extends keyof HTMLElementTagNameMap>(tag: K, className = "", ...children: (Node | string)[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (className !== "") element.className = className;
  element.append(...children);
  return element;
}

/** An SVG element. Attributes only: the page's policy refuses style attributes. */
export function draw<K extends keyof SVGElementTagNameMap>(tag: K, attributes: Record<string, string | number>): SVGElementTagNameMap[K] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}

export function button(words: string, onClick: () => void, className = ""): HTMLButtonElement {
  const element = make("button", className, words);
  element.type = "button";
  element.addEventListener("click", onClick);
  return element;
}

/** A term and its value, for a `<dl>`. */
export function fact(term: string, value: string, className = ""): HTMLElement {
  return make("div", className, make("dt", "", term), make("dd", "", value));
}

/** Says something to a screen reader, once, when it has a pause. */
export function announce(words: string): void {
  find("#announce").textContent = words;
}

export const megabytes = (bytes: number): string => `${Math.round(bytes / 1e6)} MB`;
export const capital = (word: string): string => word.charAt(0).toUpperCase() + word.slice(1);
export const engineName = { gpu: "WebGPU", cpu: "the CPU" } as const;
