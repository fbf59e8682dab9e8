import { find, make } from "./dom.js";

interface Seen {
  url: string;
  /** Milliseconds since 1970: the page and its worker count from different moments. */
  at: number;
}

/** Counts what this page and its worker ask of the network, and shows what came after the guardian was ready. */
export class Requests {
  readonly #seen: Seen[] = [];
  #ready = Infinity;

  constructor() {
    new PerformanceObserver((list) => {
      this.#add(list.getEntries().map(({ name, startTime }) => ({ url: name, at: performance.timeOrigin + startTime })));
    }).observe({ type: "resource", buffered: true });
  }

  /** Counts what a worker reports, too. */
  include(worker: Worker): void {
    worker.addEventListener("message", ({ data }: MessageEvent<{ requests?: Seen[] }>) => {
      if (data.requests) this.#add(data.requests);
    });
  }

  /** From here on, each request counts. */
  ready(): void {
    this.#ready = performance.timeOrigin + performance.now();
    find("#requests").hidden = false;
    this.#show();
  }

  #add(requests: Seen[]): void {
    // A blob: or data: address is memory of this page's own.
    this.#seen.push(...requests.filter(({ url }) => /^https?:/.test(url)));
    this.#show();
  }

  #show(): void {
    if (this.#ready === Infinity) return;
    const since = this.#seen.filter(({ at }) => at >= this.#ready);
    const before = this.#seen.filter(({ at }) => at < this.#ready);
    find("#requests").dataset.count = String(since.length);
    find("#requests-count").textContent = String(since.length);
    find("#requests-words").textContent = `network request${since.length === 1 ? "" : "s"} since ready`;
    find("#requests-note").textContent =
      since.length === 0
        ? "Since the guardian was ready, this page has asked the network for nothing. What you type stays in it."
        : "Since the guardian was ready, this page has asked the network for:";
    find("#requests-list").replaceChildren(
      ...since.slice(-50).map(({ url, at }) => make("li", "", make("code", "", short(url)), ` after ${Math.round((at - this.#ready) / 1000)} s`)),
    );
    const elsewhere = before.filter(({ url }) => !url.startsWith(location.origin)).length;
    find("#requests-before").textContent =
      `Before that, it loaded ${before.length} files, ${elsewhere === 0 ? "all from this address" : `${elsewhere} of them from elsewhere`}. ` +
      "Your browser counts, for the page and for the worker that runs the model.";
  }
}

const short = (url: string) => (url.startsWith(location.origin) ? url.slice(location.origin.length) : url).slice(0, 120);
