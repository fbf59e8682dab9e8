import { Guardian } from "slm-guardian";

const guardian = await Guardian.create({ model: "/model/" });
globalThis.screen_ = (text) => guardian.screen(text);
document.body.dataset.ready = "";
