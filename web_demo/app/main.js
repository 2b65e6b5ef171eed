/** Puts the page together. */

import { readListing } from "./bundles.js";
import { setUpChat } from "./chat.js";
import { byId, withCode } from "./dom.js";
import { setUpImages } from "./images.js";
import { recall } from "./memory.js";
import { setUpOffline } from "./offline.js";
import { Panel } from "./panel.js";
import { describe, loadRuntime } from "./runtime.js";
import { setUpSearch } from "./search.js";
import { Slot } from "./slot.js";
import { Speed } from "./speed.js";
import { showStart } from "./start.js";
import { setUpTabs } from "./tabs.js";
import { setUpTheme } from "./theme-toggle.js";

/** @typedef {import("./bundles.js").Listing} Listing */
/** @typedef {import("./bundles.js").Purpose} Purpose */
/** @typedef {import("./runtime.js").Runtime} Runtime */
/** @typedef {import("./start.js").Texts} Texts */

/** @type {Record<Purpose, Texts>} */
const TEXTS = {
  chat: {
    title: "A language model, in this tab",
    about: "It answers on your own device, with or without a network. Nothing you write is sent anywhere.",
    missing: "No language model is served here",
    commands: [
      "edgec compile SmolLM2-135M-Instruct.Q4_1.gguf --profile phone-8gb -o smollm2.edgec",
      "edgec serve smollm2.edgec",
    ],
  },
  search: {
    title: "Search by meaning",
    about: "A sentence encoder finds texts by what they say, whatever words they use. Your texts stay on your device.",
    missing: "No sentence encoder is served here",
    commands: [
      "edgec compile ./all-MiniLM-L6-v2 --profile phone-8gb -o minilm.edgec",
      "edgec serve smollm2.edgec minilm.edgec",
    ],
  },
  images: {
    title: "What is in the picture?",
    about: "An image classifier names what it sees. Photos are read in this tab and sent nowhere.",
    missing: "No image classifier is served here",
    commands: [
      "edgec compile efficientnet-lite0.onnx --task efficientnet-lite0.json --profile phone-8gb -o efficientnet.edgec",
      "edgec serve smollm2.edgec efficientnet.edgec",
    ],
    file: "tasks/efficientnet-lite0.json",
  },
};

/** @param {string} text */
function notice(text) {
  const place = byId("notice", HTMLElement);
  place.replaceChildren(...withCode(text));
  place.hidden = false;
}

/** @returns {Promise<Listing>} */
async function listing() {
  try {
    return await readListing();
  } catch (error) {
    notice(`The list of models could not be read: ${describe(error)}`);
    return { chat: [], search: [], images: [] };
  }
}

async function start() {
  setUpTheme();
  /** @type {Runtime} */
  let runtime;
  try {
    runtime = await loadRuntime();
  } catch (error) {
    setUpTabs(() => undefined);
    return notice(
      `The runtime is not at \`runtime/edgec.js\` beside this page; \`make runtime\` builds it. ${describe(error)}`,
    );
  }
  const served = await listing();
  const modelStored = setUpOffline();
  const threads = () => Number(recall("threads")) || undefined;

  /** @param {Purpose} purpose */
  function tool(purpose) {
    const slot = new Slot(served[purpose], () => runtime, threads);
    let state = slot.state;
    slot.addEventListener("change", () => {
      byId(`tab-${purpose}`, HTMLElement).dataset.state = slot.state;
      if (slot.state === "ready" && state !== "ready") modelStored();
      state = slot.state;
    });
    return { slot, speed: new Speed() };
  }

  const tools = { chat: tool("chat"), search: tool("search"), images: tool("images") };
  const focus = {
    chat: setUpChat(tools.chat.slot, tools.chat.speed),
    search: setUpSearch(tools.search.slot, tools.search.speed),
    images: setUpImages(tools.images.slot, tools.images.speed),
  };
  for (const purpose of /** @type {Purpose[]} */ (Object.keys(tools))) {
    showStart(byId(`${purpose}-start`, HTMLElement), tools[purpose].slot, TEXTS[purpose], focus[purpose]);
  }
  const panel = new Panel(runtime, tools);
  setUpTabs((name) => {
    if (name !== "device") panel.show(name);
  });
}

void start();
