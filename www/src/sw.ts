// The page without a network. The model is not kept here: the package keeps it, checked shard by shard.

interface ExtendableEvent extends Event {
  waitUntil(promise: Promise<unknown>): void;
}
interface FetchEvent extends ExtendableEvent {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}
interface Scope {
  addEventListener(type: "install" | "activate", listener: (event: ExtendableEvent) => void): void;
  addEventListener(type: "fetch", listener: (event: FetchEvent) => void): void;
}
/** The files of this build and a hash of them, which the build writes in. */
declare const __FILES__: string[];
declare const __VERSION__: string;

const scope = self as unknown as Scope;
const NAME = "guardian-page-";
const CACHE = NAME + __VERSION__;
/** Fetched anew at each visit, from the cache where that fails. */
const FRESH = ["/model/operating.json"];

scope.addEventListener("install", (event) => {
  event.waitUntil(
    (async () => {
      const cache = await caches.open(CACHE);
      // The HTTP cache may hold an older `/`; files with a hash in their name can't be old.
      await cache.addAll(__FILES__.map((file) => new Request(file, { cache: file.startsWith("/assets/") ? "default" : "reload" })));
      await Promise.all(FRESH.map((file) => cache.add(file).catch(() => {})));
    })(),
  );
});

scope.addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      const old = (await caches.keys()).filter((name) => name.startsWith(NAME) && name !== CACHE);
      await Promise.all(old.map((name) => caches.delete(name)));
    })(),
  );
});

scope.addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== location.origin) return;
  if (request.mode === "navigate" && __FILES__.includes(pathname)) event.respondWith(networkFirst(request, pathname));
  else if (FRESH.includes(pathname)) event.respondWith(networkFirst(request, pathname));
  else if (__FILES__.includes(pathname)) event.respondWith(cacheFirst(request, pathname));
});

async function cacheFirst(request: Request, path: string): Promise<Response> {
  return (await (await caches.open(CACHE)).match(path)) ?? fetch(request);
}

async function networkFirst(request: Request, path: string): Promise<Response> {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    // An index of a newer build would need that build's files: it comes with its own service worker.
    if (response.ok && FRESH.includes(path)) await cache.put(path, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(path);
    if (kept) return kept;
    throw error;
  }
}

export {};
