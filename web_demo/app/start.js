/** The card that a tab shows until its model is in memory: what it is, the button, the progress, or how to make one. */

import { facts, fill, h, withCode } from "./dom.js";
import { bytes } from "./format.js";
import { describe } from "./runtime.js";

/** @typedef {import("./slot.js").Slot} Slot */

/**
 * @typedef {object} Texts
 * @property {string} title
 * @property {string} about one sentence
 * @property {string} missing title where no bundle is served
 * @property {string[]} commands what makes one
 * @property {string} [file] a file that they need and that is served here
 */

/**
 * @param {HTMLElement} place
 * @param {Slot} slot
 * @param {Texts} texts
 * @param {() => void} onReady called when a load has ended that was started here, to move the focus on
 */
export function showStart(place, slot, texts, onReady) {
  const bar = h("div", { class: "fill" });
  const track = h(
    "div",
    {
      class: "track",
      role: "progressbar",
      "aria-label": "Loading the model",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
    },
    bar,
  );
  const amount = h("p", { class: "figures" });
  const announcement = h("p", { class: "visually-hidden", role: "status" });
  const begin = h("button", { class: "primary", type: "button", click: () => void start() });
  const cancel = h("button", { class: "quiet outlined", type: "button", click: () => slot.cancel() }, "Cancel");
  const failure = h("p", { class: "failure", role: "alert" });
  const choice = chooser(slot);
  const card = h("div", { class: "card" });
  place.append(card, announcement);
  let shown = "";

  async function start() {
    await slot.load();
    if (slot.state === "ready") onReady();
    else begin.focus();
  }

  function absent() {
    const code = h("code", {}, texts.commands.join("\n"));
    const copied = h("span", { role: "status" });
    const copy = h(
      "button",
      {
        class: "quiet outlined",
        type: "button",
        click: async () => {
          try {
            await navigator.clipboard.writeText(texts.commands.join("\n"));
            copied.textContent = "Copied";
          } catch {
            getSelection()?.selectAllChildren(code);
            copied.textContent = "Press Ctrl+C to copy";
          }
        },
      },
      "Copy",
    );
    fill(
      card,
      h("h2", {}, texts.missing),
      h("p", { class: "lede" }, texts.about),
      h("p", {}, "Compile one, serve it beside the others, and reload this page:"),
      h("pre", { tabIndex: 0, role: "group", "aria-label": "Commands" }, code),
      texts.file &&
        h(
          "p",
          {},
          "The pre-processing and the labels: ",
          h("a", { href: texts.file, download: "" }, texts.file.replace(/^.*\//, "")),
        ),
      h("p", { class: "actions" }, copy, copied),
    );
  }

  function idle() {
    const { entry } = slot;
    if (!entry) return;
    const size = entry.bytes ? bytes(entry.bytes) : "";
    begin.textContent = slot.stored ? "Start" : size ? `Download and start, ${size}` : "Download and start";
    failure.replaceChildren(...(slot.error ? withCode(describe(slot.error)) : []));
    failure.hidden = !slot.error;
    if (slot.error) begin.textContent = "Try again";
    const known = h("dl", { class: "facts" });
    facts(known, [
      ["Model", slot.entries.length > 1 ? null : entry.name],
      ["Size", size],
      ["Compiled for", entry.profile],
      ["Network", slot.stored ? "not needed, it is on this device" : "needed once, then never again"],
    ]);
    const actions = h("p", { class: "actions" }, begin);
    fill(
      card,
      h("h2", {}, texts.title),
      h("p", { class: "lede" }, texts.about),
      slot.entries.length > 1 && choice,
      known,
      failure,
      actions,
    );
  }

  function loading() {
    fill(
      card,
      h("h2", {}, texts.title),
      h("p", { class: "lede" }, texts.about),
      h("p", { class: "model-name" }, slot.entry?.name ?? ""),
      track,
      amount,
      h("p", { class: "actions" }, cancel),
    );
    cancel.focus({ preventScroll: true });
    announcement.textContent = "Loading the model";
  }

  function progress() {
    const { phase, loadedBytes, totalBytes, bytesPerSecond } = slot.progress;
    const share = totalBytes ? loadedBytes / totalBytes : 0;
    bar.style.setProperty("--share", String(share));
    track.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    if (phase === "manifest") amount.textContent = "Asking for the model";
    else if (phase !== "download" || loadedBytes === totalBytes) amount.textContent = "Starting";
    else amount.textContent = `${bytes(loadedBytes)} of ${bytes(totalBytes)}, ${bytes(bytesPerSecond)}/s`;
    track.setAttribute("aria-valuetext", amount.textContent);
  }

  function update() {
    const { state } = slot;
    place.hidden = state === "ready";
    const key = `${state} ${slot.index} ${slot.stored} ${slot.error !== null}`;
    if (key !== shown) {
      shown = key;
      if (state === "absent") absent();
      if (state === "idle") idle();
      if (state === "loading") loading();
      if (state === "ready") announcement.textContent = "The model is ready";
    }
    if (state === "loading") progress();
  }

  slot.addEventListener("change", update);
  update();
}

/** @param {Slot} slot */
function chooser(slot) {
  const select = h(
    "select",
    {},
    ...slot.entries.map(({ name, bytes: size }, index) =>
      h("option", { value: String(index) }, `${name}${size ? `, ${bytes(size)}` : ""}`),
    ),
  );
  select.addEventListener("change", () => {
    slot.choose(slot.entries[Number(select.value)]);
    select.focus();
  });
  slot.addEventListener("change", () => (select.value = String(slot.index)));
  return h("label", { class: "field" }, "Model", select);
}
