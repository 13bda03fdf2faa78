// The page's data, its elements, the tables' order, tooltips and highlighting.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

/** An element; strings among its children become text, never markup. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "rect", "text", "circle"].includes(tag);
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function formatNumber(number, digits = 4) {
  if (number === null || number === undefined) return "–";
  return Math.abs(number) >= 10000 ? Math.round(number).toLocaleString("en") : String(Number(number.toPrecision(digits)));
}

const colour = (row) => `var(--${row.kind === "tokenizer" ? "c" : "a"}${row.order % (row.kind === "tokenizer" ? 8 : 4)})`;
const dashes = (row) => (row.kind === "tokenizer" ? "none" : ["none", "7 3", "2 3", "9 3 2 3"][row.order % 4]);

const SHAPES = [
  "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z", "M-4-4h8v8h-8z", "M0-5.5L5 4H-5z", "M0-6L5 0L0 6L-5 0z", "M0 5.5L5-4H-5z",
  "M-1.5-5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z", "M-5-1.5h10v3h-10z",
];

function shape(row, x, y) {
  const style = row.kind === "tokenizer" ? { fill: colour(row) } : { fill: "var(--paper)", stroke: colour(row), "stroke-width": 1.5 };
  return make("path", { class: "shape", d: SHAPES[row.order % SHAPES.length], transform: `translate(${x} ${y})`, ...style });
}

/** The symbol of a row in the legend and in the tables. */
function legendKey(row) {
  const svg = make("svg", { viewBox: "0 0 18 12", width: 18, height: 12, "aria-hidden": "true" });
  if (row.form === "point") svg.append(shape(row, 9, 6));
  else svg.append(make("line", { x1: 0, x2: 18, y1: 6, y2: 6, stroke: colour(row), "stroke-width": 2,
    "stroke-dasharray": row.form === "level" ? "4 3" : dashes(row) }));
  return svg;
}

const tip = document.getElementById("tip");

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - tip.offsetHeight - 8))}px`;
}

function highlight(row) {
  document.body.classList.toggle("lit", row !== null);
  for (const node of document.querySelectorAll("[data-row]")) node.classList.toggle("on", node.dataset.row === String(row));
}

/** Show ``text`` as a tooltip while ``node`` has the pointer or, if focusable, the focus. */
function explain(node, row, text, focusable) {
  if (focusable) node.setAttribute("tabindex", "0");
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", text);
  node.addEventListener("pointermove", (event) => showTip(text, event.clientX, event.clientY));
  node.addEventListener("focus", () => { const box = node.getBoundingClientRect(); showTip(text, box.right, box.top); highlight(row); });
  node.addEventListener("pointerenter", () => highlight(row));
  for (const end of ["pointerleave", "blur"]) node.addEventListener(end, () => { tip.hidden = true; highlight(null); });
}

/** Sort the rows by a column: the best first, reversed at the next click; rows without a value stay last. */
function sortBy(head) {
  const table = head.closest("table");
  const [column, body] = [[...head.parentNode.children].indexOf(head), table.tBodies[0]];
  const first = head.dataset.first;
  const other = first === "ascending" ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? other : first;
  for (const one of head.parentNode.children) one.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const value = (row) => row.children[column].dataset.value;
  const compare = (a, b) => (head.dataset.text ? a.localeCompare(b) : Number(a) - Number(b)) * (order === "ascending" ? 1 : -1);
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return x === "" || y === "" ? (x === "") - (y === "") : compare(x, y);
  });
  body.append(...rows);
}

for (const head of document.querySelectorAll("thead th")) head.querySelector("button").addEventListener("click", () => sortBy(head));
for (const place of document.querySelectorAll(".key")) place.append(legendKey(DATA.rows[place.closest("[data-row]").dataset.row]));
for (const line of document.querySelectorAll("tbody tr")) {
  line.addEventListener("pointerenter", () => highlight(Number(line.dataset.row)));
  line.addEventListener("pointerleave", () => highlight(null));
}
