// The service worker is an entry of its own, at the site's root, where its scope is the whole site.
const entryFileNames = ({ name }) => (name === "sw" ? "sw.js" : "assets/[name]-[hash].js");
export default { build: { target: "es2022", rollupOptions: { input: ["index.html", "sw.js"], output: { entryFileNames } } } };
