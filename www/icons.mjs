// Draws the PNG icons from public/icons/icon.svg. Run it after changing that one: `node www/icons.mjs`.

import { readFile, writeFile } from "node:fs/promises";
import { launch } from "./browser.mjs";

const at = (name) => new URL(`public/icons/${name}`, import.meta.url);
const svg = await readFile(at("icon.svg"), "utf8");
// A mask cuts the corners off, so the maskable icon fills them.
const square = svg.replace(' rx="15"', "").replace('viewBox="0 0 64 64"', 'viewBox="-6 -6 76 76"').replace('<rect width="64" height="64"', '<rect x="-6" y="-6" width="76" height="76"');
const browser = await launch({ webgpu: "off" });
for (const [name, size, source] of [["icon-192.png", 192, svg], ["icon-512.png", 512, svg], ["icon-maskable-512.png", 512, square]]) {
  const page = await browser.newPage({ viewport: { width: size, height: size } });
  await page.setContent(`<style>body{margin:0}svg{display:block;width:100vw;height:100vh}</style>${source}`);
  await writeFile(at(name), await page.screenshot({ omitBackground: true }));
  await page.close();
}
await browser.close();
