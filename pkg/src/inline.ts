import { Guardian as Base } from "./guardian.js";
import { browser, type Platform } from "./platform.js";
import { Runtime } from "./runtime.js";
import type { CreateOptions } from "./types.js";

export * from "./guardian.js";

/**
 * For service workers, and for workers of your own: the engine runs on the thread that imports it, and nothing is imported later.
 *
 * @example
 * ```ts
 * import { Guardian } from "slm-guardian/inline";
 * const guardian = await Guardian.create({ model: "/model/", wasmUrl: "/assets/slm_guardian_bg.wasm" });
 * ```
 */
export class Guardian extends Base {
  static override async create(options: CreateOptions): Promise<Guardian> {
    const here: Platform = { ...browser, worker: false, runtime: Runtime };
    return this.createOn(here, options);
  }
}
