#!/usr/bin/env bash
# The one door: ./build.sh setup | wasm | demo [--once TEXT [--backend webgpu|cpu]] | test | bench | bundlers | docs
# Each command sets up what it needs and says so; running one twice is safe.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf 'build.sh: %s\n' "$*" >&2; }

install_packages() {
  local missing=()
  command -v chromium >/dev/null || [ -n "${CHROMIUM:-}" ] || missing+=(chromium)
  ldconfig -p | grep -q libvulkan.so.1 || missing+=(libvulkan1)
  compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null || missing+=(mesa-vulkan-drivers)
  [ ${#missing[@]} -eq 0 ] && return
  if ! command -v apt-get >/dev/null; then
    say "please install: ${missing[*]} (the browser, and a Vulkan driver for the GPU tests)"
    exit 1
  fi
  local root=(); [ "$(id -u)" -eq 0 ] || root=(sudo)
  say "installing ${missing[*]}"
  "${root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# Firefox, and WebKit in a window that no one sees, for tests/browser/engines.test.mjs. Not every system's packages have them.
install_other_browsers() {
  local missing=()
  command -v firefox-esr >/dev/null || command -v firefox >/dev/null || [ -n "${FIREFOX:-}" ] || missing+=(firefox-esr)
  compgen -G '/usr/lib/*/webkit2gtk-4.1/MiniBrowser' >/dev/null || [ -n "${WEBKIT:-}" ] || missing+=(libwebkit2gtk-4.1-0)
  command -v xvfb-run >/dev/null && command -v xauth >/dev/null || missing+=(xvfb xauth)
  [ ${#missing[@]} -eq 0 ] && return
  local root=(); [ "$(id -u)" -eq 0 ] || root=(sudo)
  say "installing ${missing[*]}"
  { "${root[@]}" apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2; } ||
    say "that failed: the package is not tested in Firefox or WebKit"
}

setup() {
  if ! rustc --print target-libdir --target wasm32-unknown-unknown 2>/dev/null | xargs -r test -d; then
    say "adding the Rust target wasm32-unknown-unknown"
    rustup target add wasm32-unknown-unknown >&2
  fi
  if [ ! -d node_modules ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    say "installing the npm packages of package-lock.json"
    npm ci --ignore-scripts --no-audit --no-fund >&2
  fi
  install_packages
}

wasm() {
  setup
  say "compiling the crate to WebAssembly"
  cargo build --quiet --lib --target wasm32-unknown-unknown --profile wasm
  say "generating its JavaScript bindings"
  cargo run --quiet -p xtask -- target/wasm32-unknown-unknown/wasm/slm_guardian.wasm pkg/dist
  local built=pkg/dist/slm_guardian_bg.wasm
  say "optimising the WebAssembly (wasm-opt)"
  # Only what every browser with WebAssembly SIMD runs: newer encodings would be refused at load.
  npx wasm-opt -O2 --enable-simd --enable-bulk-memory --enable-reference-types --enable-multivalue \
    --enable-mutable-globals --enable-sign-ext --enable-nontrapping-float-to-int \
    --strip-debug --strip-producers "$built" -o "$built.opt"
  mv "$built.opt" "$built"
  say "$(wc -c <"$built") bytes of WebAssembly, $(gzip -9 -c "$built" | wc -c) compressed"
  say "compiling the package and the page"
  npx tsc -p pkg
  npx tsc -p www
  npx vite build --logLevel warn --config www/vite.config.js >&2
}

demo() {
  wasm
  if [ "${1:-}" = --once ]; then
    [ $# -ge 2 ] || { say '--once needs a text'; exit 2; }
    exec node www/once.mjs "$@"
  fi
  exec node www/serve.mjs
}

run_tests() {
  wasm
  export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
  say "checking the Rust sources"
  cargo fmt --check
  # Compiled by build.rs, so no module that cargo knows.
  rustfmt --check --edition 2024 src/cpu/relaxed/kernel.rs
  RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps
  say "running the Rust tests, on the CPU and on Vulkan"
  cargo test --quiet
  say "running the package's tests, in Node"
  npx tsc -p tests/package/types
  node --test --test-concurrency=1 tests/package/*.test.mjs
  install_other_browsers
  say "running the browser tests"
  node --test --test-concurrency=1 tests/browser/*.test.mjs
}

# Peers come from the registries: wllama and transformers.js by npm, llama.cpp and the plots by pip.
# --out DIR: table.md, bench.json and plots; --quick: few lengths; --webgpu: that too (minutes, where it is emulated);
# --onnx DIR: transformers.js too, on what bench/export_onnx.py wrote to DIR/guardian.
bench() {
  wasm
  say "installing the peers"
  npm --prefix bench ci --ignore-scripts --no-audit --no-fund >&2
  if ! bench/.venv/bin/python -c 'import llama_cpp, matplotlib' 2>/dev/null; then
    say "compiling llama.cpp for Python in bench/.venv, which takes some minutes"
    python3 -m venv bench/.venv && bench/.venv/bin/pip install --quiet llama-cpp-python==0.3.36 matplotlib==3.11.2 >&2 ||
      say "that failed: no native llama.cpp in this run, and no plots"
  fi
  say "compiling the native command"
  cargo build --release --quiet
  local out="" previous=""
  for argument in "$@"; do [ "$previous" != --out ] || out=$argument; previous=$argument; done
  node bench/run.mjs "$@"
  [ -z "$out" ] || bench/.venv/bin/python bench/plot.py "$out"
}

# Needs the registry, for webpack and Next; Vite's project is one of the tests.
bundlers() {
  wasm
  node tests/apps/check.mjs "$@"
}

docs() {
  say "writing docs/api from the package's doc comments"
  npm --prefix docs ci --ignore-scripts --no-audit --no-fund >&2
  (cd docs && npx typedoc)
}

command=${1:-}
[ $# -gt 0 ] && shift
case "$command" in
  setup) setup ;;
  wasm) wasm ;;
  demo) demo "$@" ;;
  test) run_tests ;;
  bench) bench "$@" ;;
  bundlers) bundlers "$@" ;;
  docs) docs ;;
  *) say 'usage: ./build.sh setup | wasm | demo [--once TEXT [--backend webgpu|cpu]] | test | bench [--out DIR] [--quick] [--webgpu] [--onnx DIR] | bundlers [vite|webpack|next ...] | docs'; exit 2 ;;
esac
