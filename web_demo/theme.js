// Runs before the first paint, so that the page never flashes in the wrong colours.
"use strict";
try {
  const theme = localStorage.getItem("edgec-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is forbidden here: the system's setting decides.
}
