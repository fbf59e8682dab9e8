// Headless Chromium with WebGPU on SwiftShader, or with WebGPU switched off.

import { chromium } from "playwright-core";

const args = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const gpu = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

/** Launches Debian's Chromium, or the one that $CHROMIUM names. */
export function launch({ webgpu = true } = {}) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [...args, ...(webgpu ? gpu : ["--disable-features=WebGPU", "--disable-gpu"])],
  });
}
