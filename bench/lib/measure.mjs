// The measurement: every contender is loaded once, then all take turns, round after round.

import { loadavg } from "node:os";
import { median, pairedRatio, summarize } from "./statistics.mjs";

/** Tokens per second of the three measures; `decode` follows the long prompt, `decodeShort` the short one. */
export const MEASURES = ["prefill", "decode", "decodeShort"];

/** A contender whose threads got less than this part of their processors was disturbed by others. */
export const UNDISTURBED = 0.9;

/**
 * One turn: speed of each measure and the processors that the contender had while it ran (null where the system does not tell).
 * @returns {Promise<Record<string, {speed: number, processors: number | null, tokens: number}>>}
 */
async function turn(engine, { prompt, shortPrompt, promptTokens, decodeTokens }) {
  engine.prioritize();
  const prefill = await timed(engine, () => engine.prefill(prompt));
  if (prefill.tokens !== promptTokens) throw new Error(`the prompt has ${prefill.tokens} tokens here, not ${promptTokens}`);
  const decode = await timed(engine, () => engine.decode(decodeTokens));
  await engine.prefill(shortPrompt);
  const decodeShort = await timed(engine, () => engine.decode(decodeTokens));
  return { prefill, decode, decodeShort };
}

async function timed(engine, work) {
  const cpuBefore = engine.cpuSeconds();
  const started = performance.now();
  const { tokens, seconds, text } = await work();
  const wall = (performance.now() - started) / 1000;
  const cpuAfter = engine.cpuSeconds();
  const processors = cpuBefore === null || cpuAfter === null ? null : (cpuAfter - cpuBefore) / wall;
  return { speed: tokens / seconds, processors, tokens, ...(text === undefined ? {} : { text }) };
}

/**
 * @param {readonly import("./contenders.mjs").Contender[]} contenders
 * @param {(contender: import("./contenders.mjs").Contender) => Promise<object>} start
 * @param {{rounds: number, prompt: string, shortPrompt: string, promptTokens: number, decodeTokens: number}} work
 * @param {(note: string) => void} say progress
 * @param {(entry: object) => void} [onWarm] called after a contender's first, uncounted turn; may add to its entry
 */
export async function measureAll(contenders, start, work, say, onWarm = () => {}) {
  const entries = [];
  try {
    for (const contender of contenders) {
      const entry = { ...contender, turns: [] };
      entries.push(entry);
      await guarded(entry, say, async () => {
        say(`${contender.id}: loading and warming up`);
        entry.live = await start(contender);
        await turn(entry.live, work);
        Object.assign(entry, { loadSeconds: entry.live.loadSeconds, version: entry.live.version });
        onWarm(entry);
      });
    }
    for (let round = 0; round < work.rounds; round++) {
      // Another one begins each time, so that nobody always follows the same neighbour's heat.
      const order = entries.map((_, index) => entries[(index + round) % entries.length]);
      for (const entry of order) {
        if (!entry.live) continue;
        await guarded(entry, say, async () => {
          const load = loadavg()[0];
          entry.turns[round] = { ...(await turn(entry.live, work)), loadAverage: load };
          const speeds = MEASURES.map((measure) => `${measure} ${entry.turns[round][measure].speed.toFixed(1)}`).join(", ");
          say(`${entry.id}: round ${round + 1} of ${work.rounds}: ${speeds} tok/s`);
        });
      }
    }
    for (const entry of entries) {
      if (entry.live) await guarded(entry, say, async () => Object.assign(entry, await entry.live.describe(), { peakBytes: entry.live.peakBytes() }));
    }
  } finally {
    for (const { live } of entries) await live?.stop().catch(() => {});
  }
  return entries.map(({ live: _live, ...entry }) => entry);
}

/** A contender that fails leaves the run; the others go on. */
async function guarded(entry, say, action) {
  try {
    await action();
  } catch (error) {
    entry.failure = error.message;
    say(`${entry.id}: failed: ${error.message}`);
    await entry.live?.stop().catch(() => {});
    delete entry.live;
  }
}

/** Adds to each entry the `summary` of its turns, and whether others disturbed it. */
export function summarizeEntries(entries) {
  return entries.map((entry) => {
    const turns = entry.turns.filter(Boolean);
    if (!turns.length) return { ...entry, summary: null };
    const summary = Object.fromEntries(MEASURES.map((measure) => [measure, summarize(turns.map((each) => each[measure].speed))]));
    const shares = MEASURES.flatMap((measure) => turns.map((each) => each[measure].processors)).filter((share) => share !== null);
    return { ...entry, summary, processors: shares.length ? median(shares) : null };
  });
}

/** Checks the goals; those whose contenders are not there are left out. */
export function judge(goals, entries) {
  return goals.flatMap((goal) => {
    const speedsOf = (id) => entries.find((entry) => entry.id === id)?.turns.map((each) => each?.[goal.measure].speed) ?? [];
    const rivals = goal.over.filter((id) => speedsOf(id).some(Boolean));
    if (!rivals.length || !speedsOf(goal.of).some(Boolean)) return [];
    const fastest = rivals.reduce((best, id) => (median(speedsOf(id).filter(Boolean)) > median(speedsOf(best).filter(Boolean)) ? id : best));
    const ratio = pairedRatio(speedsOf(goal.of), speedsOf(fastest));
    return ratio === null ? [] : [{ name: goal.name, rival: fastest, ratio, atLeast: goal.atLeast, reached: ratio >= goal.atLeast }];
  });
}
