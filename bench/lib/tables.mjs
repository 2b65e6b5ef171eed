// Tables are rows of texts, the first is the header; the first column names its row, the others are numbers.

/** @param {string[][]} table @returns {string[]} lines for a terminal */
export function aligned(table) {
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  return table.map((row) => row.map((cell, column) => (column ? cell.padStart(widths[column]) : cell.padEnd(widths[column]))).join("  "));
}

/** @param {string[][]} table @returns {string} a table of Markdown */
export function marked([header, ...body]) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(header), line(header.map((_, column) => (column ? "--:" : ":--"))), ...body.map(line)].join("\n");
}
