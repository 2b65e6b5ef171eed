/** Tabs with arrow keys, kept in the address. On wide windows the device panel stands beside the others instead. */

import { byId } from "./dom.js";
import { TOOLS } from "./tools.js";

const NAMES = [...TOOLS.map(({ name }) => name), "device"];
const wide = matchMedia("(min-width: 66rem)");

/** @param {(name: string) => void} onShow told the name of a tool, or "device" */
export function setUpTabs(onShow) {
  const tabs = NAMES.map((name) => byId(`tab-${name}`, HTMLButtonElement));
  const panels = NAMES.map((name) => byId(name, HTMLElement));
  let shown = 0;

  const available = () => (wide.matches ? NAMES.length - 1 : NAMES.length);

  /** @param {number} index */
  function show(index) {
    shown = index;
    for (const [at, tab] of tabs.entries()) {
      tab.setAttribute("aria-selected", String(at === index));
      tab.tabIndex = at === index ? 0 : -1;
      const beside = wide.matches && NAMES[at] === "device";
      panels[at].hidden = at !== index && !beside;
    }
    onShow(NAMES[index]);
  }

  function arrange() {
    const device = NAMES.indexOf("device");
    tabs[device].hidden = wide.matches;
    if (wide.matches) {
      panels[device].setAttribute("role", "complementary");
      panels[device].setAttribute("aria-label", "Device and precision");
      panels[device].removeAttribute("aria-labelledby");
    } else {
      panels[device].setAttribute("role", "tabpanel");
      panels[device].removeAttribute("aria-label");
      panels[device].setAttribute("aria-labelledby", "tab-device");
    }
    show(Math.min(shown, available() - 1));
  }

  /** @param {number} index */
  function choose(index) {
    show(index);
    history.replaceState(null, "", `#${NAMES[index]}`);
  }

  for (const [index, tab] of tabs.entries()) {
    tab.addEventListener("click", () => choose(index));
    tab.addEventListener("keydown", (event) => {
      const last = available() - 1;
      const target = {
        ArrowRight: index === last ? 0 : index + 1,
        ArrowLeft: index === 0 ? last : index - 1,
        Home: 0,
        End: last,
      }[event.key];
      if (target === undefined) return;
      event.preventDefault();
      choose(target);
      tabs[target].focus();
    });
  }
  addEventListener("hashchange", fromAddress);
  wide.addEventListener("change", arrange);

  function fromAddress() {
    const index = NAMES.findIndex((name) => location.hash === `#${name}`);
    if (index >= 0 && index < available()) show(index);
  }

  arrange();
  fromAddress();
}
