/** The exponential function of docs/runtime-abi.md: engines round `Math.exp` differently, this is the same in all of them. */

const COEFFICIENTS = Float64Array.from({ length: 14 }, (_, i) => {
  let factorial = 1;
  for (let n = 2; n <= i; n++) factorial *= n;
  return 1 / factorial;
});
const HALVES = new Float64Array(1024); // 2^-n, exact
HALVES[0] = 1;
for (let n = 1; n < HALVES.length; n++) HALVES[n] = HALVES[n - 1] / 2;

/** exp of a double <= 0 in a fixed order of operations: the same bits in every language. */
export function exp64(x: number): number {
  if (x < -700) return 0;
  const k = Math.floor(x * 1.4426950408889634 + 0.5);
  const r = x - k * 0.69314718036912381649 - k * 1.90821492927058770002e-10;
  let p = COEFFICIENTS[13];
  for (let i = 12; i >= 0; i--) p = p * r + COEFFICIENTS[i];
  return p * HALVES[-k];
}

/** The same for every double: 1 / exp64(-x) for x > 0. */
export function exp(x: number): number {
  return x > 0 ? 1 / exp64(-x) : exp64(x);
}
