/** Light, dark, or what the system says. `theme.js` applies the choice before the first paint. */

import { byId } from "./dom.js";
import { recall, remember } from "./memory.js";

const NAMES = { auto: "Auto", light: "Light", dark: "Dark" };
const THEMES = /** @type {(keyof typeof NAMES)[]} */ (Object.keys(NAMES));

export function setUpTheme() {
  const button = byId("theme", HTMLButtonElement);
  const label = byId("theme-name", HTMLElement);
  let index = Math.max(0, THEMES.indexOf(/** @type {keyof typeof NAMES} */ (recall("theme"))));

  function apply() {
    const theme = THEMES[index];
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    remember("theme", theme === "auto" ? null : theme);
    label.textContent = NAMES[theme];
    button.setAttribute("aria-label", `Colours: ${NAMES[theme]}`);
  }

  button.addEventListener("click", () => {
    index = (index + 1) % THEMES.length;
    apply();
  });
  apply();
}
