// The measurement: every contender is loaded once, then all take turns, round after round.

import { loadavg } from "node:os";
import { waitingShare } from "./processes.mjs";
import { median, pairedRatio, summarize } from "./statistics.mjs";

/** Tokens per second of the three measures; `decode` follows the long prompt, `decodeShort` the short one. */
export const MEASURES = ["prefill", "decode", "decodeShort"];

/** A turn whose threads had to wait for a processor longer than this part of their time was disturbed by others. */
export const UNDISTURBED = 0.05;

/**
 * One turn: the speed of each measure and how long its threads waited (null where the system does not tell).
 * @returns {Promise<Record<string, {speed: number, waiting: number | null, tokens: number, text?: string}>>}
 */
async function turn({ live: engine, threads, ...own }, { prompt, shortPrompt, promptTokens, ...work }) {
  const decodeTokens = own.decodeTokens ?? work.decodeTokens;
  engine.prioritize();
  const prefill = await timed(engine, threads, () => engine.prefill(prompt));
  if (prefill.tokens !== promptTokens) throw new Error(`the prompt has ${prefill.tokens} tokens here, not ${promptTokens}`);
  const decode = await timed(engine, threads, () => engine.decode(decodeTokens));
  await engine.prefill(shortPrompt);
  const decodeShort = await timed(engine, threads, () => engine.decode(decodeTokens));
  return { prefill, decode, decodeShort };
}

async function timed(engine, threads, work) {
  const before = engine.threadTimes();
  const { tokens, seconds, text } = await work();
  const waiting = waitingShare(before, engine.threadTimes(), threads);
  return { speed: tokens / seconds, waiting, tokens, ...(text === undefined ? {} : { text }) };
}

/** The longest wait among a turn's measures, 0 where it is not known. */
export function disturbance(measured) {
  return Math.max(...MEASURES.map((measure) => measured[measure].waiting ?? 0));
}

/** A turn; one that others disturbed is repeated up to `retries` times, and the least disturbed one counts. */
async function quietTurn(entry, work) {
  let best;
  for (let attempt = 0; attempt <= work.retries; attempt++) {
    const measured = await turn(entry, work);
    if (!best || disturbance(measured) < disturbance(best)) best = measured;
    if (disturbance(best) <= UNDISTURBED) break;
  }
  return best;
}

/**
 * @param {readonly import("./contenders.mjs").Contender[]} contenders
 * @param {(contender: import("./contenders.mjs").Contender) => Promise<object>} start
 * @param {{rounds: number, retries: number, prompt: string, shortPrompt: string, promptTokens: number, decodeTokens: number}} work
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
        await turn(entry, work);
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
          entry.turns[round] = { ...(await quietTurn(entry, work)), loadAverage: load };
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

/** Adds to each entry the `summary` of its turns, and how much others disturbed them. */
export function summarizeEntries(entries) {
  return entries.map((entry) => {
    const turns = entry.turns.filter(Boolean);
    if (!turns.length) return { ...entry, summary: null };
    const summary = Object.fromEntries(MEASURES.map((measure) => [measure, summarize(turns.map((each) => each[measure].speed))]));
    return { ...entry, summary, disturbance: median(turns.map(disturbance)) };
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
