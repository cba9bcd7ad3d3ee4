"""The lines of script that a page has of its own: they draw its figures, and sort its tables."""

SCRIPT = """
"use strict";
const page = JSON.parse(document.getElementById("page-data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
let finished = [];

// Tables travel by columns; a column of few names as their list and a number for each row.
function rowsOf(table) {
  const columns = Object.entries(table).map(([name, column]) =>
    [name, Array.isArray(column) ? column : column.codes.map(code => code < 0 ? null : column.levels[code])]);
  const length = columns.length ? columns[0][1].length : 0;
  return Array.from({length}, (_, row) => Object.fromEntries(columns.map(([name, values]) => [name, values[row]])));
}

async function draw() {
  finished.forEach(result => result.finalize());
  finished = [];
  document.body.dataset.drawn = "";
  const config = page.configs[dark.matches ? "dark" : "light"];
  for (const place of document.querySelectorAll(".chart")) {
    const figure = page.figures[place.dataset.figure];
    const spec = {...figure.spec, datasets: {[figure.data]: rowsOf(page.tables[figure.data])}};
    const choices = place.previousElementSibling;
    choices.replaceChildren();
    const options = {config, bind: choices, mode: "vega-lite",
      actions: {export: true, source: false, compiled: false, editor: false},  // the others would open other pages
      tooltip: {theme: dark.matches ? "dark" : "light"}, downloadFileName: place.dataset.figure};
    finished.push(await vegaEmbed(place, spec, options));
  }
  document.body.dataset.drawn = dark.matches ? "dark" : "light";
}

function sortBy(head) {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const before = head.getAttribute("aria-sort");
  const rising = before === "descending" || (before === "none" && column === 0);  // numbers begin with the largest
  const key = row => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
  };
  const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b
    : typeof a !== typeof b ? (typeof a === "number" ? -1 : 1) * (rising ? 1 : -1)  // cells without a number come last
    : a.localeCompare(b, undefined, {numeric: true});
  const rows = [...body.rows].sort((a, b) => (rising ? 1 : -1) * order(key(a), key(b)));
  for (const each of head.parentNode.cells) each.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", rising ? "ascending" : "descending");
  body.append(...rows);
}

for (const button of document.querySelectorAll("th button"))
  button.addEventListener("click", () => sortBy(button.closest("th")));
dark.addEventListener("change", draw);
draw();
"""
