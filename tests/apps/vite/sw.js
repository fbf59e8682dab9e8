import { Guardian } from "slm-guardian/inline";

let loading;
self.addEventListener("message", (event) => {
  loading ??= Guardian.create({ model: "/model/", backend: "cpu" });
  event.waitUntil(loading.then(async (guardian) => event.ports[0].postMessage(await guardian.screen(event.data))));
});
