// The threshold that can be moved: histograms of one task's scores, by style, and what each place of it would keep.
// The totals were counted over all rows when the page was made, at every place where the threshold can stand.

const [WIDE, LEFT, RIGHT] = [640, 64, 14]; // pixels of the drawing; the slider lies under LEFT to WIDE - RIGHT
const [TALL, LOW, GAP] = [150, 44, 16]; // the height of all rows' histogram, of a style's, and between them
const BARS = 48;

/** Fill a task's figure. `look(from)` shows the rows from a score on in the browser. */
function thresholdShown(root, name, cut, told, look) {
  const sums = suffixSums(cut);
  const styles = Object.keys(cut.styles);
  const lines = [["all", TALL, everyStyle(cut)], ...(styles.length > 1 ? styles.map((s) => [s, LOW, cut.styles[s].rows]) : [])];
  const drawing = histograms(cut, lines, name);
  const slider = el("input", {
    type: "range", min: 0, max: cut.cuts.length - 1, step: 1, value: cut.at, "aria-label": `threshold of ${name}`, oninput: () => draw(),
  });
  const figures = el("dl", { class: "would" });
  const mix = el("div", { class: "mix-bar", role: "img" });
  const reset = el("button", { type: "button", onclick: () => ((slider.value = cut.at), draw()) }, told.inUse ? "Back to the one in use" : "Back");
  const show = el("button", { type: "button", onclick: () => look(cut.cuts[Number(slider.value)]) }, "Look at these rows");

  function draw() {
    const at = Number(slider.value);
    const kept = sums.rows[at];
    drawing.move(at);
    const line = (label, value, note) => el("div", {}, el("dt", {}, label), el("dd", {}, value, note ? [" ", el("small", {}, note)] : null));
    slider.setAttribute("aria-valuetext", `${score(cut.cuts[at], 4)}: ${plural(kept, "row")} kept`);
    figures.replaceChildren(
      line("threshold", score(cut.cuts[at], 4), at === cut.at && told.inUse ? "in use" : null),
      line("kept", count(kept), `${percent(kept, told.rows)} of ${count(told.rows)}`),
      line(`mean ${told.value}`, kept ? score(sums.sum[at] / kept) : "–", null),
      ...(sums.truth ? [truthLine(line, sums, at, cut.rows)] : []),
    );
    const parts = styles.map((style, i) => [style, sums.styles[style][at], i]).filter(([, n]) => n);
    const words = parts.map(([style, n]) => `${style} ${percent(n, kept)}`).join(", ");
    mix.setAttribute("aria-label", `styles of the kept rows: ${words || "none"}`);
    mix.replaceChildren(...parts.map(([style, n, i]) => {
      const part = el("span", { class: `style-${i % 6}`, title: `${style}: ${count(n)}` }, `${style} ${percent(n, kept)}`);
      part.style.flexGrow = n;
      return part;
    }));
    reset.disabled = at === cut.at;
    show.disabled = kept === 0;
  }

  // The middle of the slider's knob, 16 pixels wide, runs from end to end of the axis.
  slider.style.marginLeft = `calc(${(100 * LEFT) / WIDE}% - 8px)`;
  slider.style.width = `calc(${(100 * (WIDE - LEFT - RIGHT)) / WIDE}% + 16px)`;
  root.replaceChildren(drawing.node, slider, figures, mix, el("div", { class: "buttons" }, show, reset));
  draw();
}

function truthLine(line, sums, at, all) {
  const [kept, dropped] = [sums.rows[at], all - sums.rows[at]];
  const of = dropped ? `${score((sums.truth[0] - sums.truth[at]) / dropped)} of those dropped` : null;
  return line("mean truth", kept ? score(sums.truth[at] / kept) : "–", of);
}

/** For each place of the threshold, what lies from there on. */
function suffixSums(cut) {
  const from = (counts) => {
    const sums = Float64Array.from(counts);
    for (let i = sums.length - 2; i >= 0; i--) sums[i] += sums[i + 1];
    return sums;
  };
  const styles = Object.entries(cut.styles);
  const over = (key) => from(cut.cuts.map((_, i) => styles.reduce((sum, [, s]) => sum + s[key][i], 0)));
  return {
    rows: over("rows"),
    sum: over("sum"),
    truth: styles.every(([, s]) => s.truth) ? over("truth") : null,
    styles: Object.fromEntries(styles.map(([style, s]) => [style, from(s.rows)])),
  };
}

function everyStyle(cut) {
  return cut.cuts.map((_, i) => Object.values(cut.styles).reduce((sum, style) => sum + style.rows[i], 0));
}

/** The histograms, one above the other on one axis; `move(at)` colours them for a threshold. */
function histograms(cut, lines, name) {
  const [first, last] = [cut.cuts[0], cut.cuts.at(-1)];
  const x = (value) => LEFT + ((value - first) / (last - first)) * (WIDE - LEFT - RIGHT);
  const places = Math.ceil((cut.cuts.length - 1) / BARS);
  const bars = [];
  const parts = [];
  let top = 12;
  for (const [label, height, rows] of lines) {
    const groups = [];
    for (let i = 0; i < cut.cuts.length - 1; i += places) groups.push([i, Math.min(i + places, cut.cuts.length - 1)]);
    const sums = groups.map(([from, to]) => rows.slice(from, to).reduce((a, b) => a + b, 0));
    const highest = Math.max(1, ...sums);
    const floor = top + height;
    parts.push(svg("text", { x: LEFT - 8, y: floor - 3, class: "end" }, label));
    if (label === "all") parts.push(svg("text", { x: LEFT - 8, y: top + 8, class: "tick end" }, count(highest)));
    groups.forEach(([from, to], g) => {
      const [left, right] = [x(cut.cuts[from]), x(cut.cuts[to])];
      const width = Math.max(0.6, right - left - 1);
      const title = svg("title", {}, `${score(cut.cuts[from], 4)} to ${score(cut.cuts[to], 4)}: ${plural(sums[g], "row")}`);
      const gray = svg("rect", { class: "dropped", x: left, width }, title);
      const kept = svg("rect", { class: "kept", x: left, width, "pointer-events": "none" });
      bars.push({ gray, kept, from, to, rows, floor, scale: height / highest, all: sums[g] });
      parts.push(gray, kept);
    });
    parts.push(svg("line", { class: "axis", x1: LEFT, x2: WIDE - RIGHT, y1: floor, y2: floor }));
    top = floor + GAP;
  }
  const cutLine = svg("line", { class: "cut", y1: 4, y2: top - GAP + 4 });
  const used = svg("path", { class: "used", d: `M ${x(cut.cuts[cut.at])} ${top - GAP + 1} l -4 7 h 8 z` });
  const node = svg("svg", { class: "plot", viewBox: `0 0 ${WIDE} ${top + 12}`, role: "img", "aria-label": `histogram of ${name}` },
    parts, used, cutLine, ticksOf(first, last).map((tick) => svg("text", { x: x(tick), y: top + 6, class: "tick middle" }, +tick.toFixed(6))));

  function move(at) {
    for (const bar of bars) {
      const kept = bar.rows.slice(Math.max(bar.from, at), Math.max(bar.to, at)).reduce((a, b) => a + b, 0);
      place(bar.gray, bar.floor, bar.all * bar.scale);
      place(bar.kept, bar.floor, kept * bar.scale);
    }
    cutLine.setAttribute("x1", x(cut.cuts[at]));
    cutLine.setAttribute("x2", x(cut.cuts[at]));
  }
  return { node, move };
}

function place(bar, floor, height) {
  bar.setAttribute("y", floor - height);
  bar.setAttribute("height", height);
}

/** About five round numbers within a range. */
function ticksOf(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9; i++) ticks.push(i * step);
  return ticks;
}
