/** Puts the page together. */

import { noBundles, readListing } from "./bundles.js";
import { byId, h, withCode } from "./dom.js";
import { ignoreOtherDrops } from "./drop.js";
import { recall } from "./memory.js";
import { setUpOffline } from "./offline.js";
import { Panel } from "./panel.js";
import { describe, loadRuntime } from "./runtime.js";
import { Slot } from "./slot.js";
import { Speed } from "./speed.js";
import { showStart } from "./start.js";
import { setUpTabs } from "./tabs.js";
import { setUpTheme } from "./theme-toggle.js";
import { TOOLS } from "./tools.js";

/** @typedef {import("./bundles.js").Listing} Listing */
/** @typedef {import("./runtime.js").Runtime} Runtime */
/** @typedef {import("./tools.js").Tool} Tool */

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
    return noBundles();
  }
}

/**
 * Its tab, and a panel with a place for the start card and one for the tool.
 *
 * @param {Tool} tool
 */
function addPanel({ name, label }) {
  const tab = { role: "tab", id: `tab-${name}`, "aria-controls": name, "aria-selected": "false", tabIndex: -1 };
  byId("tab-device", HTMLElement).before(h("button", tab, label));
  const panel = h(
    "section",
    { id: name, class: "panel", role: "tabpanel", "aria-labelledby": tab.id, hidden: true },
    h("div", { class: "start", id: `${name}-start` }),
    h("div", { class: "tool", id: `${name}-tool`, hidden: true }),
  );
  byId("main", HTMLElement).append(panel);
}

async function start() {
  setUpTheme();
  ignoreOtherDrops();
  TOOLS.forEach(addPanel);
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

  /** @param {Tool} tool */
  function setUp({ name, texts, setUp: fill }) {
    const slot = new Slot(served[name], () => runtime, threads);
    const speed = new Speed();
    let state = slot.state;
    slot.addEventListener("change", () => {
      byId(`tab-${name}`, HTMLElement).dataset.state = slot.state;
      if (slot.state === "ready" && state !== "ready") modelStored();
      state = slot.state;
    });
    const moveFocus = fill(byId(`${name}-tool`, HTMLElement), slot, speed);
    showStart(byId(`${name}-start`, HTMLElement), slot, texts, moveFocus);
    return { slot, speed };
  }

  const tools = Object.fromEntries(TOOLS.map((tool) => [tool.name, setUp(tool)]));
  const panel = new Panel(runtime, tools);
  setUpTabs((name) => {
    if (name !== "device") panel.show(name);
  });
}

void start();
