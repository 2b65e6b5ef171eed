// Runs the checks of the demo page in one real browser and prints what came out, one JSON object a line.
//
//   node drive.mjs chromium|firefox < settings.json
//
// Settings: {"serve": command that serves a folder of bundles and prints its address, "bundles": {"chat", "search", "images", "story"},
// "picture": a red PNG, "checks": names, or all}

import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { launch } from "../../runtime_wasm/tools/browsers.mjs";
import * as pageChecks from "./checks_page.mjs";
import * as toolChecks from "./checks_tools.mjs";
import { Page, Server } from "./page.mjs";

const CHECK_LIMIT = 180_000; // ms
const REDUCED_MOTION = {
  args: { chromium: ["--force-prefers-reduced-motion"], firefox: [] },
  preferences: { "ui.prefersReducedMotion": 1 },
};

const checks = { ...pageChecks, ...toolChecks };
const name = process.argv[2];
const settings = JSON.parse(readFileSync(0, "utf8"));
const browser = await launch(name, { args: REDUCED_MOTION.args[name], preferences: REDUCED_MOTION.preferences });
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
