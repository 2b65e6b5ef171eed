// Bars of speeds as a stand-alone SVG, light and dark.

import { inMainBrowser } from "./report.mjs";
import { MEASURES } from "./tokens.mjs";

const TITLES = {
  prefill: ({ promptTokens }) => `Prefill, ${promptTokens} tokens`,
  decode: ({ promptTokens }) => `Decode after ${promptTokens} tokens`,
  decodeShort: () => "Decode after one sentence",
};
const [LABELS, WIDTH, BAR, GAP, HEAD, MARGIN] = [235, 720, 18, 8, 40, 16];

/** One model, all measures. */
export function plot(result) {
  const panels = MEASURES.map((measure) => panelOf(result, measure));
  return picture(`Tokens per second, ${result.model.name}`, panels);
}

/** Several models, the measures that a user waits for. */
export function plotShapes(results) {
  const panels = results.flatMap((result) => ["prefill", "decode"].map((measure) => panelOf(result, measure, `${result.model.name}: `)));
  return picture(`Tokens per second, ${results.map(({ model }) => model.name).join(", ")}`, panels);
}

function panelOf({ entries, work }, measure, before = "") {
  return { title: `${before}${TITLES[measure](work)} (tokens per second)`, bars: barsOf(entries.filter(inMainBrowser), measure) };
}

/** A bar for each who ran. */
export function barsOf(entries, measure) {
  return entries
    .filter(({ summary }) => summary)
    .map(({ engine, label, threads, summary }) => ({ label: `${label}, ${inThreads(threads)}`, own: engine === "edgec", ...summary[measure] }));
}

export const inThreads = (count) => `${count} thread${count > 1 ? "s" : ""}`;

/**
 * @param {string} label for those who cannot see it
 * @param {{title: string, bars: {label: string, own: boolean, median: number, lowest: number, highest: number}[]}[]} panels
 */
export function picture(label, panels) {
  let height = 0;
  const drawn = panels.map(({ title, bars }) => {
    const panel = drawPanel(title, bars, height);
    height += HEAD + bars.length * (BAR + GAP);
    return panel;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height + MARGIN}" role="img" aria-label="${escape(label)}">
<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.edgec { fill: #2f6fde } .other { fill: #9aa4b2 } .spread { stroke: #24292f; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) { text { fill: #d6dbe1 } .edgec { fill: #6ea0ff } .other { fill: #6b7480 } .spread { stroke: #d6dbe1 } }
</style>
${drawn.join("\n")}
</svg>
`;
}

function drawPanel(title, bars, top) {
  const room = WIDTH - LABELS - MARGIN - 60;
  const scale = room / Math.max(...bars.map(({ highest }) => highest));
  const rows = bars.map(({ label, own, median, lowest, highest }, index) => {
    const y = top + HEAD + index * (BAR + GAP);
    const [middle, baseline] = [y + BAR / 2, y + BAR / 2 + 4.5];
    const at = (value) => (LABELS + value * scale).toFixed(1);
    return `<text x="${LABELS - 8}" y="${baseline}" text-anchor="end">${escape(label)}</text>
<rect class="${own ? "edgec" : "other"}" x="${LABELS}" y="${y}" width="${(median * scale).toFixed(1)}" height="${BAR}" rx="2"/>
<line class="spread" x1="${at(lowest)}" x2="${at(highest)}" y1="${middle}" y2="${middle}"/>
<text x="${LABELS + highest * scale + 8}" y="${baseline}">${median.toFixed(median < 10 ? 1 : 0)}</text>`;
  });
  return `<text class="title" x="${MARGIN}" y="${top + 26}">${escape(title)}</text>\n${rows.join("\n")}`;
}

function escape(text) {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
