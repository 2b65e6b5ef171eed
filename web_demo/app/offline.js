/** Keeps the page usable without a network, and says whether it is. */

import { byId } from "./dom.js";
import { storedBundles } from "./memory.js";

/** @returns {() => void} to be called when a model has been stored: its small files are then kept too */
export function setUpOffline() {
  const status = byId("network", HTMLElement);
  let kept = false;

  function show() {
    status.classList.toggle("kept", kept);
    if (!navigator.onLine) status.textContent = kept ? "Offline, and working" : "Offline";
    else
      status.textContent = kept
        ? "Ready for offline use"
        : "serviceWorker" in navigator
          ? "Preparing for offline use"
          : "Works online only";
  }

  addEventListener("online", show);
  addEventListener("offline", show);
  show();
  const { serviceWorker } = navigator;
  if (!serviceWorker) return () => undefined;

  serviceWorker.addEventListener("message", ({ data }) => {
    if (data?.type !== "kept") return;
    kept = data.complete;
    show();
  });
  const keep = async () =>
    (await serviceWorker.ready).active?.postMessage({ type: "keep", bundles: [...storedBundles()] });
  serviceWorker.register("sw.js").then(keep, () => {
    status.textContent = "Works online only";
  });
  return () => void keep();
}
