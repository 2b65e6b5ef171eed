// Keeps the page, the runtime and the small files of the models in use, so that all works without a network. Weights are
// not kept here: the runtime stores them itself. The network comes first, so a page is never older than its server.
"use strict";

const CACHE = "edgec-page-1";
const PATIENCE = 4000; // ms for a network that neither answers nor fails
const PAGE = [
  "./",
  "app.webmanifest",
  "app/answer.js",
  "app/bundles.js",
  "app/chat.js",
  "app/device.js",
  "app/dom.js",
  "app/format.js",
  "app/images.js",
  "app/main.js",
  "app/memory.js",
  "app/offline.js",
  "app/panel.js",
  "app/plan.js",
  "app/runtime.js",
  "app/samples.js",
  "app/search.js",
  "app/settings.js",
  "app/slot.js",
  "app/sparkline.js",
  "app/speed.js",
  "app/start.js",
  "app/tabs.js",
  "app/theme-toggle.js",
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

self.addEventListener("install", (event) => {
  event.waitUntil(keepPage().then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(activate());
});

async function activate() {
  for (const name of await caches.keys()) {
    if (name.startsWith("edgec-page-") && name !== CACHE) await caches.delete(name);
  }
  await self.clients.claim();
}

// The page names the bundles whose weights it has; their small files are kept, everything else is let go.
self.addEventListener("message", (event) => {
  if (event.data?.type !== "keep") return;
  event.waitUntil(keep(event.data.bundles, event.source));
});

async function keep(bundles, client) {
  let complete = true;
  try {
    const wanted = new Set(await keepPage());
    for (const bundle of bundles) for (const url of await keepBundle(new URL(bundle, SCOPE))) wanted.add(url);
    const cache = await caches.open(CACHE);
    for (const request of await cache.keys()) if (!wanted.has(request.url)) await cache.delete(request);
  } catch {
    complete = await pageIsKept(); // no network: what was kept before stays
  }
  client?.postMessage({ type: "kept", complete });
}

async function pageIsKept() {
  const cache = await caches.open(CACHE);
  const found = await Promise.all([...PAGE, ...RUNTIME].map((path) => cache.match(new URL(path, SCOPE))));
  return found.every(Boolean);
}

/** @returns the addresses of the page's and the runtime's files, all of them in the cache */
async function keepPage() {
  const cache = await caches.open(CACHE);
  const urls = PAGE.map((path) => new URL(path, SCOPE).href);
  await Promise.all(urls.map((url) => store(cache, url)));
  const scripts = RUNTIME.map((path) => new URL(path, SCOPE).href);
  // The names of the runtime's chunks change with each build: the scripts themselves tell.
  for (let at = 0; at < scripts.length; at++) {
    const text = await (await store(cache, scripts[at])).text();
    for (const [, path] of text.matchAll(/["'](\.{1,2}\/[\w./-]+\.js)["']/g)) {
      const url = new URL(path, scripts[at]).href;
      if (!scripts.includes(url)) scripts.push(url);
    }
  }
  return [...urls, ...scripts];
}

/** The manifest and every variant of the module, so that settings may change without a network. */
async function keepBundle(bundle) {
  if (bundle.origin !== SCOPE.origin) return [];
  const cache = await caches.open(CACHE);
  const manifest = new URL("manifest.json", bundle).href;
  const { modules } = await (await store(cache, manifest)).json();
  const urls = Object.values(modules).map((file) => new URL(file, bundle).href);
  await Promise.all(urls.map((url) => store(cache, url)));
  return [manifest, ...urls];
}

async function store(cache, url) {
  const response = await fetch(url, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  await cache.put(url, response.clone());
  return response;
}

self.addEventListener("fetch", (event) => {
  const { method, url, mode } = event.request;
  const address = new URL(url);
  if (method !== "GET" || address.origin !== SCOPE.origin || address.pathname.endsWith(".bin")) return;
  address.search = address.hash = "";
  if (mode === "navigate" && address.pathname === `${SCOPE.pathname}index.html`) address.pathname = SCOPE.pathname;
  event.respondWith(answer(event.request, address.href));
});

/** The network's answer, or the kept one where there is no network or it takes too long. */
async function answer(request, key) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(key);
  if (!kept) return fetch(request);
  const network = fetch(request).then(
    (response) => {
      if (response.status >= 500) return kept;
      if (response.status === 200 && !response.redirected) cache.put(key, response.clone()).catch(() => undefined);
      return response;
    },
    () => kept,
  );
  let timer;
  const patience = new Promise((resolve) => {
    timer = setTimeout(resolve, PATIENCE, kept);
  });
  return Promise.race([network, patience]).finally(() => clearTimeout(timer));
}
