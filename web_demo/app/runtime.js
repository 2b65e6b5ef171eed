/** The edgec runtime, which lies in `runtime/` beside the page. */

/** @typedef {typeof import("@edgec/runtime")} Runtime */
/** @typedef {import("@edgec/runtime").Model} Model */
/** @typedef {import("@edgec/runtime").Stats} Stats */

/** @returns {Promise<Runtime>} */
export function loadRuntime() {
  return import(new URL("runtime/edgec.js", document.baseURI).href);
}

/**
 * One or two sentences about an error of the runtime.
 *
 * @param {unknown} error
 * @returns {string}
 */
export function describe(error) {
  const { message = String(error), hint } = /** @type {{message?: string, hint?: string}} */ (error ?? {});
  return [message, hint]
    .filter((text) => typeof text === "string" && text !== "")
    .map((text) => sentence(/** @type {string} */ (text)))
    .join(" ");
}

/** @param {string} text */
function sentence(text) {
  const start = text.startsWith("`") ? text : text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}

/**
 * @param {unknown} error
 * @returns {string | undefined} the runtime's error code
 */
export function codeOf(error) {
  return /** @type {{code?: string} | undefined} */ (error)?.code;
}
