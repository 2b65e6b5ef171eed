// The measurement: every contender is loaded once, then all take turns, round after round.

import { loadavg } from "node:os";
import { waitingShare } from "./processes.mjs";
import { median, pairedRatio, summarize } from "./statistics.mjs";

/** A turn whose threads had to wait for a processor longer than this part of their time was disturbed by others. */
export const UNDISTURBED = 0.05;

/**
 * A measure of a turn: what `action` gives, and how long the threads waited meanwhile (null where the system does not tell).
 * @template {{speed: number}} T
 * @param {() => Promise<T>} action
 * @returns {Promise<T & {waiting: number | null}>}
 */
export async function timed(engine, threads, action) {
  const before = engine.threadTimes();
  const measured = await action();
  return { ...measured, waiting: waitingShare(before, engine.threadTimes(), threads) };
}

/** The longest wait among a turn's measures, 0 where it is not known. */
export function disturbance(measured) {
  return Math.max(...Object.values(measured).map(({ waiting }) => waiting ?? 0));
}

async function takeTurn({ live, ...contender }, work) {
  live.prioritize();
  return work.turn(live, contender, work);
}

/** A turn; one that others disturbed is repeated up to `retries` times, and the least disturbed one counts. */
async function quietTurn(entry, work) {
  let best;
  for (let attempt = 0; attempt <= work.retries; attempt++) {
    const measured = await takeTurn(entry, work);
    if (!best || disturbance(measured) < disturbance(best)) best = measured;
    if (disturbance(best) <= UNDISTURBED) break;
  }
  return best;
}

/**
 * @param {readonly import("./contenders.mjs").Contender[]} contenders
 * @param {(contender: import("./contenders.mjs").Contender) => Promise<object>} start
 * @param {{rounds: number, retries: number, unit: string, turn: (engine: object, contender: object, work: object) => Promise<object>}} work
 *   `turn` gives the measures of one turn by name, and may find more in `work`
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
        await takeTurn(entry, work);
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
          const speeds = measuresOf(entry.turns[round]).map((measure) => `${measure} ${entry.turns[round][measure].speed.toFixed(1)}`);
          say(`${entry.id}: round ${round + 1} of ${work.rounds}: ${speeds.join(", ")} ${work.unit}`);
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

function measuresOf(measured) {
  return Object.keys(measured).filter((name) => measured[name].speed !== undefined);
}

/** Adds to each entry the `summary` of its turns, and how much others disturbed them. */
export function summarizeEntries(entries) {
  return entries.map((entry) => {
    const turns = entry.turns.filter(Boolean);
    if (!turns.length) return { ...entry, summary: null };
    const summary = Object.fromEntries(measuresOf(turns[0]).map((measure) => [measure, summarize(turns.map((each) => each[measure].speed))]));
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
