import { batch } from "./batch.js";
import { chat } from "./chat.js";
import { offline } from "./offline.js";
import { operating } from "./operating.js";
import { Requests } from "./requests.js";
import { settings } from "./settings.js";
import { model, ready, start } from "./start.js";
import { Store } from "./store.js";
import { tabs } from "./tabs.js";

const store = new Store();
const requests = new Requests();
// Both are done before the guardian is ready, so that nothing is asked of the network after.
const beside = Promise.all([operating(model), offline()]);
const guardian = await start(store, requests);
const [data] = await beside;

store.calibrate(guardian.info.calibration);
tabs();
ready(guardian);
chat(guardian, store);
batch(guardian, store);
settings(guardian, store, data);
requests.ready();
// For tests and the command line: the page's own guardian.
Object.assign(globalThis, { guardian });
