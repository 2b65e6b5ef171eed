// Keeps the page, the runtime and the small files of the models in use, so that all works without a network. Weights are not
// kept here: the runtime stores them itself. The network comes first, so a page that has one is never older than its server.
"use strict";

const CACHE = "edgec-page";
const PATIENCE = 4000; // ms for a network that neither answers nor fails
const PAGE = [
  "./",
  "app.webmanifest",
  "app/answer.js",
  "app/bundles.js",
  "app/chat.js",
  "app/device.js",
  "app/dom.js",
  "app/drop.js",
  "app/format.js",
  "app/frame.js",
  "app/frames.js",
  "app/gallery.js",
  "app/images.js",
  "app/main.js",
  "app/memory.js",
  "app/offline.js",
  "app/panel.js",
  "app/picture.js",
  "app/plan.js",
  "app/reading.js",
  "app/runtime.js",
  "app/samples.js",
  "app/search.js",
  "app/settings.js",
  "app/slot.js",
  "app/sound.js",
  "app/sparkline.js",
  "app/speech.js",
  "app/speed.js",
  "app/start.js",
  "app/tabs.js",
  "app/theme-toggle.js",
  "app/tools.js",
  "bundles.json",
  "icon.svg",
  "style/base.css",
  "style/chat.css",
  "style/device.css",
  "style/layout.css",
  "style/start.css",
  "style/tools.css",
  "theme.js",
];
const RUNTIME = ["runtime/edgec.js", "runtime/worker.js", "runtime/thread.js"];
const SCOPE = new URL("./", self.location.href);

// Neither `skipWaiting` nor `clients.claim`: what is kept serves the next visit, and Firefox would wait for the models' threads,
// which sleep, to take note of the change before it answers any request.
self.addEventListener("install", (event) => {
  event.waitUntil(renew([]));
});

// The page names the bundles whose weights it has; their small files are kept too, and those that are no longer needed let go.
self.addEventListener("message", (event) => {
  if (event.data?.type === "keep") event.waitUntil(keep(event.data.bundles, event.source));
});

async function keep(bundles, client) {
  let complete = true;
  try {
    const needed = await renew(bundles);
    const cache = await caches.open(CACHE);
    for (const { url } of await cache.keys()) if (!needed.has(url) && !isPage(url)) await cache.delete(url);
  } catch {
    complete = await pageIsKept(); // no network: what was kept before stays
  }
  client?.postMessage({ type: "kept", complete });
}

/** Not to be deleted, even where this version of the worker does not know it: a newer one may be waiting. */
function isPage(url) {
  return !/\/runtime\/|\.wasm$|\/manifest\.json$|\/report\.html$/.test(url);
}

async function pageIsKept() {
  const cache = await caches.open(CACHE);
  const found = await Promise.all([...PAGE, ...RUNTIME].map((path) => cache.match(new URL(path, SCOPE))));
  return found.every(Boolean);
}

/**
 * Stores what is new on the server, all of it or nothing, so that versions are never mixed.
 *
 * @returns the addresses of all files that are needed
 */
async function renew(bundles) {
  const fresh = new Map();
  await Promise.all([
    ...PAGE.map((path) => ask(fresh, new URL(path, SCOPE))),
    askForRuntime(fresh),
    ...bundles.map((url) => askForBundle(fresh, new URL(url, SCOPE))),
  ]);
  const cache = await caches.open(CACHE);
  const changed = [];
  for (const [url, response] of fresh)
    if (!isSame(await cache.match(url), response)) changed.push(new Request(url, { cache: "no-cache" }));
  if (changed.length > 0) await cache.addAll(changed); // one transaction: dozens of them would keep a slow disk busy
  return new Set(fresh.keys());
}

function isSame(kept, response) {
  return (
    kept !== undefined &&
    ["etag", "last-modified"].some(
      (name) => kept.headers.has(name) && kept.headers.get(name) === response.headers.get(name),
    )
  );
}

async function ask(fresh, { href }) {
  const response = await fetch(href, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${href}: ${response.status}`);
  fresh.set(href, response);
  return response;
}

/** The names of the runtime's chunks change with each build: the scripts themselves tell. */
async function askForRuntime(fresh) {
  const scripts = RUNTIME.map((path) => new URL(path, SCOPE).href);
  for (let at = 0; at < scripts.length; at++) {
    const text = await (await ask(fresh, new URL(scripts[at]))).text();
    for (const [, path] of text.matchAll(/["'](\.{1,2}\/[\w./-]+\.js)["']/g)) {
      const { href } = new URL(path, scripts[at]);
      if (!scripts.includes(href)) scripts.push(href);
    }
  }
}

/** The manifest, the report, and every variant of the module, so that settings may change without a network. */
async function askForBundle(fresh, bundle) {
  if (bundle.origin !== SCOPE.origin) return;
  const { modules, files } = await (await ask(fresh, new URL("manifest.json", bundle))).json();
  const small = [...Object.values(modules), "report.html"].filter((file) => file in files);
  await Promise.all(small.map((file) => ask(fresh, new URL(file, bundle))));
}

self.addEventListener("fetch", (event) => {
  const { method, url, mode } = event.request;
  const address = new URL(url);
  if (method !== "GET" || address.origin !== SCOPE.origin || address.pathname.endsWith(".bin")) return;
  address.search = address.hash = "";
  if (mode === "navigate" && address.pathname === `${SCOPE.pathname}index.html`) address.pathname = SCOPE.pathname;
  event.respondWith(answer(event.request, address.href));
});

/** The network's answer, or what is kept where there is no network or it takes too long. */
async function answer(request, key) {
  const network = fetch(request);
  const late = new Promise((resolve) => setTimeout(resolve, PATIENCE));
  const response = await Promise.race([network, late]).catch(() => undefined);
  if (response && response.status < 500) return response;
  const cache = await caches.open(CACHE);
  return (await cache.match(key)) ?? network;
}
