// The module worker: a runtime behind messages.

import { Runtime } from "./runtime.js";
import type { Answer, Request } from "./types.js";

const runtime = new Runtime((answer: Answer) => self.postMessage(answer));
self.onmessage = ({ data }: MessageEvent<Request>) => runtime.receive(data);
