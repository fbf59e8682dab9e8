// node tests/apps/build.mjs vite|webpack|next: packs the package, installs the tarball in a fresh copy of tests/apps/NAME under target/apps,
// builds it, and prints the folder of the built site. Vite comes from this repository's packages, the others from the registry.

import { execFile } from "node:child_process";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../../", import.meta.url));
const built = { vite: "dist", webpack: "dist", next: "out" };

/** Builds the app; resolves to the folder of its site. */
export async function build(name) {
  if (!(name in built)) throw new Error(`no app is named ${name}; ${Object.keys(built).join(", ")} are`);
  const app = `${root}target/apps/${name}`;
  await rm(app, { recursive: true, force: true });
  await mkdir(app, { recursive: true });
  await cp(`${root}tests/apps/${name}`, app, { recursive: true });
  if (name === "vite") await quickStart(app);
  const packed = JSON.parse((await run("npm", ["pack", "--json", "--workspace", "pkg", "--pack-destination", app], { cwd: root })).stdout);
  const tarball = `./${packed[0].filename.replace("@", "").replace("/", "-")}`;
  // Next and webpack's helpers carry no install scripts that a build needs.
  const quiet = ["--ignore-scripts", "--no-audit", "--no-fund"];
  await run("npm", ["install", ...quiet, ...(name === "vite" ? ["--offline"] : []), tarball], { cwd: app });
  // Vite itself stands in the repository's node_modules, two levels up.
  const command = { vite: [`${root}node_modules/.bin/vite`, "build", "--logLevel", "warn"], webpack: ["npx", "webpack"], next: ["npx", "next", "build"] }[name];
  await run(command[0], command.slice(1), { cwd: app, env: { ...process.env, NEXT_TELEMETRY_DISABLED: "1" } });
  return `${app}/${built[name]}`;
}

/** The package's README is the app's first part, word for word. */
async function quickStart(app) {
  const readme = await readFile(`${root}pkg/README.md`, "utf8");
  const code = (language) => new RegExp("```" + language + "\\n([^]*?)```").exec(readme)?.[1] ?? "";
  const page = await readFile(`${app}/index.html`, "utf8");
  await writeFile(`${app}/index.html`, page.replace("<!-- the README's form -->", code("html")));
  await writeFile(`${app}/quick.js`, code("js"));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    console.log(await build(process.argv[2]));
  } catch (error) {
    console.error(`build: ${error.message}\n${error.stderr ?? ""}${error.stdout ?? ""}`);
    process.exitCode = 1;
  }
}
