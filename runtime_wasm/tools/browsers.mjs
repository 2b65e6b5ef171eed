// Real browsers of this machine, fresh profile each time.

import { existsSync } from "node:fs";
import puppeteer from "puppeteer-core";

const PLACES = {
  chromium: [process.env.EDGEC_CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"],
  firefox: [process.env.EDGEC_FIREFOX, "/usr/bin/firefox-esr", "/usr/bin/firefox"],
};
const CHROMIUM_FLAGS = [
  ...[
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
  ],
  ...["--disable-sync", "--disable-default-apps", "--disable-dev-shm-usage", "--mute-audio"],
];
const FIREFOX_PREFERENCES = {
  "app.update.enabled": false,
  "browser.safebrowsing.enabled": false,
  "datareporting.policy.dataSubmissionEnabled": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "toolkit.telemetry.enabled": false,
};

/** @param {"chromium" | "firefox"} name */
export function findBrowser(name) {
  const path = PLACES[name].find((place) => place && existsSync(place));
  if (!path) throw new Error(`${name} is not installed; set EDGEC_${name.toUpperCase()} to its executable`);
  return path;
}

/** @param {"chromium" | "firefox"} name */
export async function launch(name, { args = [], preferences = {} } = {}) {
  return puppeteer.launch({
    browser: name === "firefox" ? "firefox" : "chrome",
    executablePath: findBrowser(name),
    headless: true,
    args: name === "firefox" ? args : [...CHROMIUM_FLAGS, ...args],
    protocolTimeout: 600_000,
    ...(name === "firefox" ? { extraPrefsFirefox: { ...FIREFOX_PREFERENCES, ...preferences } } : {}),
  });
}

/**
 * Runs `body(edgec, argument)` in the page. What it returns must be JSON; it comes back as `{value}`, errors as `{error}`.
 * The function travels as text, so it sees nothing of this file.
 */
export async function inPage(page, body, argument) {
  const text = await page.evaluate(`(async () => {
    try {
      const edgec = await import("/runtime/edgec.js");
      return JSON.stringify({ value: await (${body})(edgec, ${JSON.stringify(argument ?? null)}) });
    } catch (error) {
      const { name, code, message, hint, file, stack } = error;
      return JSON.stringify({ error: { name, code, message, hint, file, stack } });
    }
  })()`);
  return JSON.parse(text);
}
