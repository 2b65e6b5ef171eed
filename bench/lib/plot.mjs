// Bars of tokens per second as a stand-alone SVG, light and dark.

import { MEASURES } from "./measure.mjs";

const TITLES = {
  prefill: ({ promptTokens }) => `Prefill, ${promptTokens} tokens`,
  decode: ({ promptTokens }) => `Decode after ${promptTokens} tokens`,
  decodeShort: () => "Decode after one sentence",
};
const [LABELS, WIDTH, BAR, GAP, HEAD, MARGIN] = [210, 720, 18, 8, 40, 16];

/** One model, all measures. */
export function plot(result) {
  return picture(MEASURES.map((measure) => panelOf(result, measure, "")), result.model.name);
}

/** Several models, the measures that a user waits for. */
export function plotShapes(results) {
  const panels = results.flatMap((result) => ["prefill", "decode"].map((measure) => panelOf(result, measure, `${result.model.name}: `)));
  return picture(panels, results.map(({ model }) => model.name).join(", "));
}

function panelOf({ entries, work }, measure, before) {
  return { title: `${before}${TITLES[measure](work)}`, measure, entries: entries.filter(({ summary }) => summary) };
}

/** @returns {string} */
function picture(panels, what) {
  let height = 0;
  const drawn = panels.map((panel) => {
    const top = height;
    height += HEAD + panel.entries.length * (BAR + GAP);
    return bars(panel, top);
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height + MARGIN}" role="img" aria-label="Tokens per second, ${escape(what)}">
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

function bars({ title, measure, entries }, top) {
  const room = WIDTH - LABELS - MARGIN - 60;
  const scale = room / Math.max(...entries.map(({ summary }) => summary[measure].highest));
  const rows = entries.map(({ label, threads, engine, summary }, index) => {
    const { median, lowest, highest } = summary[measure];
    const y = top + HEAD + index * (BAR + GAP);
    const [middle, baseline] = [y + BAR / 2, y + BAR / 2 + 4.5];
    const at = (value) => (LABELS + value * scale).toFixed(1);
    return `<text x="${LABELS - 8}" y="${baseline}" text-anchor="end">${escape(label)}, ${threads} thread${threads > 1 ? "s" : ""}</text>
<rect class="${engine === "edgec" ? "edgec" : "other"}" x="${LABELS}" y="${y}" width="${(median * scale).toFixed(1)}" height="${BAR}" rx="2"/>
<line class="spread" x1="${at(lowest)}" x2="${at(highest)}" y1="${middle}" y2="${middle}"/>
<text x="${LABELS + highest * scale + 8}" y="${baseline}">${median.toFixed(median < 10 ? 1 : 0)}</text>`;
  });
  return `<text class="title" x="${MARGIN}" y="${top + 26}">${escape(title)} (tokens per second)</text>\n${rows.join("\n")}`;
}

function escape(text) {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
