// Headless Chromium with WebGPU on a real GPU, on SwiftShader, or switched off.

import { chromium } from "playwright-core";

const args = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const gpu = {
  hardware: ["--enable-unsafe-webgpu"],
  software: ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"],
  off: ["--disable-features=WebGPU", "--disable-gpu"],
};

/** Launches Debian's Chromium, or the one that $CHROMIUM names. */
export function launch({ webgpu }) {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: [...args, ...gpu[webgpu]] });
}
