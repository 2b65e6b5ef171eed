/** What the page remembers between visits. Where storage is forbidden, it forgets. */

const PREFIX = "edgec-";

/** @param {string} key */
export function recall(key) {
  try {
    return localStorage.getItem(PREFIX + key);
  } catch {
    return null;
  }
}

/**
 * @param {string} key
 * @param {string | null} value null forgets
 */
export function remember(key, value) {
  try {
    if (value === null) localStorage.removeItem(PREFIX + key);
    else localStorage.setItem(PREFIX + key, value);
  } catch {
    // A private window, most likely.
  }
}

/** @returns {Set<string>} addresses of the bundles whose files are on this device, of nested ones for each depth */
export function storedBundles() {
  return new Set((recall("stored") ?? "").split("\n").filter(Boolean));
}

/** @param {string} address */
export function addStoredBundle(address) {
  remember("stored", [...storedBundles().add(address)].join("\n"));
}

export function forgetStoredBundles() {
  remember("stored", null);
}
