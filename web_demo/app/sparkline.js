/** A curve without axes, which grows to the right until it fills its frame. */

const NAMESPACE = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 40;

/**
 * @param {readonly number[]} samples
 * @param {number} places samples that fill the frame
 * @returns {SVGSVGElement}
 */
export function sparkline(samples, places) {
  const svg = document.createElementNS(NAMESPACE, "svg");
  svg.setAttribute("class", "sparkline");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  if (samples.length > 1) {
    const largest = Math.max(...samples) || 1;
    const points = samples.map(
      (value, index) =>
        `${((index / (places - 1)) * WIDTH).toFixed(1)},${(HEIGHT - 2 - (value / largest) * (HEIGHT - 6)).toFixed(1)}`,
    );
    const line = document.createElementNS(NAMESPACE, "polyline");
    line.setAttribute("points", points.join(" "));
    svg.append(line);
  }
  return svg;
}
