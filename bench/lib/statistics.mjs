/** @param {number[]} values not empty */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** @param {number[]} values not empty */
export function summarize(values) {
  return { median: median(values), lowest: Math.min(...values), highest: Math.max(...values), count: values.length };
}

/**
 * Median of the quotients of values that were measured in the same round, so that what slows a whole round down cancels.
 * @param {(number | undefined)[]} above by round
 * @param {(number | undefined)[]} below by round
 * @returns {number | null} null where no round has both
 */
export function pairedRatio(above, below) {
  const ratios = above.flatMap((value, round) => (value !== undefined && below[round] !== undefined ? [value / below[round]] : []));
  return ratios.length ? median(ratios) : null;
}
