// Runs the checks of the demo page in one real browser and prints what came out, one JSON object a line.
//
//   node drive.mjs chromium|firefox < settings.json
//
// Settings: {"serve": command that serves a folder of bundles and prints its address, "bundles": path by name, "picture": a red PNG,
// "page": a PNG of two dark lines, "video": two red seconds and two blue ones, "speech": a WAV of two seconds, "silence": a WAV,
// "checks": names, or all}

import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { launch } from "../../runtime_wasm/tools/browsers.mjs";
import * as mediaChecks from "./checks_media.mjs";
import * as pageChecks from "./checks_page.mjs";
import * as toolChecks from "./checks_tools.mjs";
import { Page, Server } from "./page.mjs";

const CHECK_LIMIT = 180_000; // ms
const MICROPHONE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]; // beeps, and is allowed
const ARGUMENTS = { chromium: ["--force-prefers-reduced-motion", ...MICROPHONE], firefox: [] };
const PREFERENCES = {
  "ui.prefersReducedMotion": 1,
  "media.navigator.streams.fake": true,
  "media.navigator.permission.disabled": true,
};

const checks = { ...pageChecks, ...toolChecks, ...mediaChecks };
const name = process.argv[2];
const settings = JSON.parse(readFileSync(0, "utf8"));
const browser = await launch(name, { args: ARGUMENTS[name], preferences: PREFERENCES });
try {
  for (const check of settings.checks ?? Object.keys(checks))
    console.log(JSON.stringify({ check, ...(await run(check)) }));
} finally {
  await browser.close();
}

async function tooLong() {
  await setTimeout(CHECK_LIMIT, undefined, { ref: false });
  throw new Error("the check takes too long");
}

/** A fresh profile and a fresh server for each check. */
async function run(check) {
  const started = performance.now();
  const context = await browser.createBrowserContext();
  const server = new Server(settings.serve, settings.bundles);
  const page = new Page(await context.newPage(), server, settings);
  try {
    await page.watch();
    await Promise.race([checks[check](page), tooLong()]);
    page.assertQuiet();
    return { seconds: (performance.now() - started) / 1000 };
  } catch (error) {
    return { error: error.stack, noise: page.noise, shown: await page.text().catch(() => "") };
  } finally {
    await context.close().catch(() => undefined);
    await server.stop();
  }
}
