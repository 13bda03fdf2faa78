// Rate-distortion plots and codebook histograms, as inline SVG.
const LOG = { to: Math.log10, from: (x) => 10 ** x };
const PLAIN = { to: (x) => x, from: (x) => x };

/** A scale from [low, high] to pixels [start, end], with its ticks. */
function scale(kind, low, high, start, end, ticks) {
  const [a, b] = [kind.to(low), kind.to(high)];
  const at = (value) => start + ((kind.to(value) - a) / (b - a)) * (end - start);
  return { at, low, high, ticks: ticks.filter((tick) => tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) };
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const leads = decades > 3 ? [1] : decades > 1.6 ? [1, 3] : [1, 2, 5];
  const step = decades > 6 ? 2 : 1;
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    if (power % step === 0) for (const lead of leads) ticks.push(Number(`${lead}e${power}`));
  }
  return ticks;
}

function plainTicks(low, high) {
  const raw = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((lead) => lead * power >= raw);
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) ticks.push(Number((n * step).toPrecision(10)));
  return ticks;
}

function frame(svg, x, y, box, xLabel, format = formatNumber) {
  for (const tick of y.ticks) {
    svg.append(make("line", { class: "grid", x1: box.left, x2: box.right, y1: y.at(tick), y2: y.at(tick) }),
      make("text", { x: box.left - 7, y: y.at(tick) + 4, "text-anchor": "end" }, format(tick)));
  }
  svg.append(make("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  for (const tick of x.ticks) {
    svg.append(make("line", { class: "axis", x1: x.at(tick), x2: x.at(tick), y1: box.bottom, y2: box.bottom + 4 }),
      make("text", { x: x.at(tick), y: box.bottom + 16, "text-anchor": "middle" }, format(tick)));
  }
  svg.append(make("text", { x: (box.left + box.right) / 2, y: box.bottom + 32, "text-anchor": "middle" }, xLabel));
}

const known = (value) => typeof value === "number" && Number.isFinite(value);
const path = (points) => points.map(([x, y], n) => `${n ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

/** {row, points [rate, value, interval]} in a plot of ``score``; a level is one point without a rate. */
function marks(row, score) {
  if (row.form === "line") {
    const points = row.curve.filter((p) => p.bits_per_pixel > 0 && known(p[score])).map((p) => [p.bits_per_pixel, p[score], null]);
    return { row, points: points.sort((a, b) => a[0] - b[0]) };
  }
  if (!known(row.scores[score])) return { row, points: [] };
  return { row, points: [[row.scores.bits_per_pixel, row.scores[score], row.intervals[score] || null]] };
}

function words(row, score, [rate, value, interval]) {
  const range = interval ? ` (${formatNumber(interval[0])} to ${formatNumber(interval[1])})` : "";
  return `${row.title}\n${score.label} ${formatNumber(value)}${score.unit}${range}` + (row.form === "level" ? "" : `\n${formatNumber(rate)} bits/pixel`);
}

/** Mark -> sideways shift in pixels, so that no mark covers another; variants often have the same rate. */
function apart(points, place) {
  const [shift, taken] = [new Map(), []];
  for (const mark of points) {
    const [left, top] = place(mark.points[0]);
    const free = (x) => !taken.some((other) => Math.abs(other[0] - x) < 10 && Math.abs(other[1] - top) < 12);
    let n = 0;
    const offset = () => Math.ceil(n / 2) * 10 * (n % 2 ? 1 : -1); // 0, 10, -10, 20, ...
    while (!free(left + offset())) n++;
    shift.set(mark, offset());
    taken.push([left + offset(), top]);
  }
  return shift;
}

function plot(score) {
  const found = DATA.rows.map((row) => marks(row, score.name)).filter((mark) => mark.points.length);
  const rates = found.filter((mark) => mark.row.form !== "level").flatMap((mark) => mark.points.map((point) => point[0]));
  if (!rates.length) return null;
  const values = found.flatMap((mark) => mark.points.flatMap((point) => [point[1], ...(point[2] || [])])).filter(known);
  const box = { left: 44, right: 396, top: 8, bottom: 250 };
  const margin = (Math.max(...values) - Math.min(...values) || Math.abs(values[0]) || 1) * 0.06;
  const [low, high] = [Math.min(...values) - margin, Math.max(...values) + margin];
  const [least, most] = [Math.min(...rates) / 1.4, Math.max(...rates) * 1.4];
  const x = scale(LOG, least, most, box.left, box.right, logTicks(least, most));
  const y = scale(PLAIN, low, high, box.bottom, box.top, plainTicks(low, high));
  const svg = make("svg", { viewBox: "0 0 404 286", role: "group", "aria-label": `${score.label} against bits per pixel` });
  frame(svg, x, y, box, "bits per pixel");
  const shift = apart(found.filter((mark) => mark.row.form === "point"), ([rate, value]) => [x.at(rate), y.at(value)]);
  for (const mark of [...found].sort((a, b) => (a.row.form === "point") - (b.row.form === "point"))) {
    const { row } = mark;
    const group = make("g", { "data-row": row.index, class: `of-${row.form}` });
    if (row.form === "line") {
      const line = path(mark.points.map(([rate, value]) => [x.at(rate), y.at(value)]));
      group.append(make("path", { class: "curve", d: line, stroke: colour(row), "stroke-dasharray": dashes(row) }));
    }
    for (const point of mark.points) {
      const [left, top] = [x.at(point[0] || least) + (shift.get(mark) || 0), y.at(point[1])];
      const node = make("g", { class: "mark" });
      if (row.form === "level") {
        const ends = { x1: box.left, x2: box.right, y1: top, y2: top };
        node.append(make("line", { ...ends, class: "level", stroke: colour(row), "stroke-width": 1.5, "stroke-dasharray": "4 3" }),
          make("line", { ...ends, class: "hit" }));
      } else if (row.form === "line") {
        node.append(make("circle", { cx: left, cy: top, r: 2.2, fill: colour(row) }), make("circle", { cx: left, cy: top, r: 3, class: "hit" }));
      } else {
        if (point[2] && point[2].every(known)) node.append(make("path", { class: "bar", stroke: colour(row),
          d: `M${left} ${y.at(point[2][0])}V${y.at(point[2][1])}M${left - 3} ${y.at(point[2][0])}h6M${left - 3} ${y.at(point[2][1])}h6` }));
        node.append(shape(row, left, top));
      }
      explain(node, row.index, words(row, score, point), row.form !== "line");
      group.append(node);
    }
    svg.append(group);
  }
  const direction = score.better > 0 ? "↑ higher is better" : "↓ lower is better";
  return make("figure", { class: "plot", "data-score": score.name }, make("h3", {}, `${score.label}${score.unit ? "," : ""}${score.unit} `,
    make("span", { class: "quiet" }, direction)), svg);
}

function histogram(book) {
  const row = DATA.rows[book.row];
  const box = { left: 44, right: 276, top: 6, bottom: 130 };
  const [ranks, counts] = DATA.histogram;
  const x = scale(LOG, 1, ranks, box.left, box.right, logTicks(1, ranks));
  const y = scale(LOG, counts[0], counts[1], box.bottom, box.top, logTicks(counts[0], counts[1]));
  const svg = make("svg", { viewBox: "0 0 284 166", role: "img",
    "aria-label": `Use of the codebook of ${row.title}: ${formatNumber(book.used)} of ${formatNumber(book.entries)} entries` });
  frame(svg, x, y, box, "entry, most used first", (tick) => (tick >= 10000 ? `1e${Math.round(Math.log10(tick))}` : formatNumber(tick)));
  svg.append(make("line", { class: "even", x1: box.left, x2: x.at(book.max_used), y1: y.at(book.uniform_count), y2: y.at(book.uniform_count) }),
    make("path", { class: "curve counts", stroke: colour(row), d: path(book.points.map(([rank, count]) => [x.at(rank), y.at(count)])) }));
  const meter = make("i");
  meter.style.width = `${Math.min(100, (100 * book.entropy) / (book.entropy_bound || 1))}%`;
  meter.style.background = colour(row);
  const figure = make("figure", { class: "codebook" }, make("h3", {}, row.title), svg,
    make("p", {}, `entropy ${formatNumber(book.entropy)} of at most ${formatNumber(book.entropy_bound)} bits`),
    make("div", { class: "meter" }, meter));
  const many = book.num_codebooks > 1 ? `, ${book.num_codebooks} codebooks` : "";
  figure.append(make("p", { class: "quiet" }, `${formatNumber(book.used)} of ${formatNumber(book.entries)} entries used${many}`));
  for (const digits of book.digits) figure.append(digitBars(row, digits));
  return figure;
}

function digitBars(row, digits) {
  const width = Math.min(16, 232 / digits.length);
  const svg = make("svg", { viewBox: "0 0 284 34", role: "group", "aria-label": "entropy of each digit" });
  svg.append(make("line", { class: "grid", x1: 44, x2: 44 + width * digits.length, y1: 3, y2: 3 }),
    make("line", { class: "axis", x1: 44, x2: 44 + width * digits.length, y1: 29, y2: 29 }));
  digits.forEach(([entropy, most], n) => {
    const height = Math.max(0.5, 26 * Math.min(1, entropy / most));
    const bar = make("g", { class: "digit" }, make("rect", { x: 44 + n * width, y: 29 - height, width: Math.max(1, width - 2), height, fill: colour(row) }));
    explain(bar, row.index, `${row.title}\ndigit ${n + 1}: ${formatNumber(entropy)} of ${formatNumber(most)} bits`, false);
    svg.append(bar);
  });
  return svg;
}

const plots = DATA.plots.map(plot).filter(Boolean);
document.getElementById("plots").append(...plots);
document.getElementById("plots-section").hidden = !plots.length;
for (const row of DATA.rows) {
  const name = make("span", { "data-row": row.index }, make("span", { class: "key" }, legendKey(row)), row.title);
  name.addEventListener("pointerenter", () => highlight(row.index));
  name.addEventListener("pointerleave", () => highlight(null));
  document.getElementById("legend").append(name);
}
document.getElementById("codebooks").append(...DATA.codebooks.map(histogram));
document.getElementById("codebooks-section").hidden = !DATA.codebooks.length;
