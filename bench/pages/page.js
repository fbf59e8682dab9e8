const engine = (await import(`/pages/${new URLSearchParams(location.search).get("engine")}.js`)).default;
globalThis.bench = engine;
document.title = "ready";
