// Looks at the page as it is rendered. These functions run inside it.

/** Texts whose colour is too close to what is behind them, WCAG 2 AA. */
export function contrastProblems() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  /** Any CSS colour as [r, g, b, alpha]. */
  const read = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], back) => [r, g, b].map((value, i) => value * a + back[i] * (1 - a));
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.unshift(read(getComputedStyle(at).backgroundColor));
    return layers.reduce((back, layer) => over(layer, back), [255, 255, 255]);
  };
  const luminance = (color) =>
    color
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
      .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);

  const problems = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (
      !node.data.trim() ||
      !element.checkVisibility() ||
      element.closest(":disabled, .visually-hidden, .skip, option, noscript")
    )
      continue;
    const style = getComputedStyle(element);
    const back = behind(element);
    const [light, dark] = [luminance(over(read(style.color), back)), luminance(back)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    const size = Number.parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) problems.push(`${ratio.toFixed(2)}: ${node.data.trim().slice(0, 40)}`);
  }
  for (const field of document.querySelectorAll("input:not([type=file]), select, textarea")) {
    if (!field.checkVisibility() || field.disabled) continue;
    const [light, dark] = [
      luminance(read(getComputedStyle(field).borderTopColor)),
      luminance(behind(field.parentElement)),
    ].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 3) problems.push(`${ratio.toFixed(2)}: edge of ${field.id}`);
  }
  return problems;
}

/** What sticks out of the window to the right. */
export function overflowing() {
  const width = document.documentElement.clientWidth;
  const found = [];
  if (document.documentElement.scrollWidth > width)
    found.push(`the page is ${document.documentElement.scrollWidth} px wide`);
  for (const element of document.body.querySelectorAll("*")) {
    if (!element.checkVisibility() || element.closest(".visually-hidden, pre, svg")) continue;
    const { right, left } = element.getBoundingClientRect();
    if (right > width + 0.5 || left < -0.5)
      found.push(`${element.tagName} ${element.id || element.className}: ${left} to ${right}`);
  }
  return found;
}

/** Controls that a screen reader could not name. */
export function nameless() {
  const found = [];
  for (const element of document.querySelectorAll(
    "button, input, select, textarea, a, [role=tab], [role=progressbar], [role=log], [tabindex]",
  )) {
    if (!element.checkVisibility() || element.matches("main, pre")) continue;
    const labelled = element.getAttribute("aria-labelledby");
    const name =
      element.getAttribute("aria-label") ||
      (labelled && document.getElementById(labelled)?.textContent) ||
      [...(element.labels ?? [])].map((label) => label.textContent).join() ||
      element.textContent;
    if (!name.trim()) found.push(element.outerHTML.slice(0, 80));
  }
  return found;
}
