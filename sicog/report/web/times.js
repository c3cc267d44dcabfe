// The table of what each step took: time, speed, memory, and what a teacher or a machine cost.

function timesShown(root, steps) {
  const longest = Math.max(1e-9, ...steps.map((step) => step.seconds ?? 0));
  const columns = [
    ["seconds", "time", (s) => duration(s.seconds)],
    ["rows", "rows", (s) => count(s.rows)],
    ["rate", "rows/s", (s) => rate(s.rows / s.seconds)],
    ["tokens_per_second", "tokens/s", (s) => count(Math.round(s.tokens_per_second))],
    ["memory_gib", "memory, GiB", (s) => s.memory_gib.toFixed(1)],
    ["mfu", "utilisation", (s) => percent(s.mfu, 1)],
    ["teacher", "tokens asked for", (s) => asked(s.teacher)],
    ["usd", "cost", (s) => cost(s)],
  ];
  for (const step of steps) {
    if (step.rows && step.seconds >= 0.05) step.rate = true;
    if (step.teacher?.usd !== undefined || step.machine_cost !== undefined) step.usd = true;
  }
  const has = (step, key) => step[key] !== undefined && step[key] !== null;
  const used = columns.filter(([key]) => steps.some((step) => has(step, key)));
  const bar = (step) => {
    const span = el("span", { class: "kept" });
    span.style.width = `${(100 * (step.seconds ?? 0)) / longest}%`;
    return el("td", { class: "bar-cell" }, el("div", { class: "bar" }, span));
  };
  const line = (step) =>
    el("tr", {}, el("td", {}, step.name, el("small", {}, step.verb)), used.map(([key, , text]) => el("td", {}, has(step, key) ? text(step) : "–")), bar(step));
  const total = steps.reduce((sum, step) => sum + (step.seconds ?? 0), 0);
  root.replaceChildren(
    el("table", {},
      el("thead", {}, el("tr", {}, el("th", {}, "step"), used.map(([, label]) => el("th", {}, label)), el("th", {}))),
      el("tbody", {}, steps.map(line)),
      total ? el("tfoot", {}, el("tr", {}, el("td", {}, "all steps"), el("td", {}, duration(total)), el("td", { colspan: used.length }))) : null),
  );
}

/** 12,345, 67.8 or 0.0912 */
function rate(value) {
  return value >= 100 ? count(Math.round(value)) : value.toPrecision(3);
}

/** 3725 -> 1 h 2 min */
function duration(seconds) {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : seconds.toFixed(0)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function asked(teacher) {
  if (teacher.unknown) return `unknown (${teacher.unknown})`;
  return [count(teacher.input_tokens + teacher.output_tokens), el("small", {}, `for ${plural(teacher.answers, "answer")}`)];
}

function cost(step) {
  const parts = [];
  if (step.teacher?.usd !== undefined) parts.push(`${step.teacher.usd.toFixed(2)} USD`);
  if (step.machine_cost !== undefined) parts.push(`${step.machine_cost.toFixed(2)} for machines`);
  return parts.join(", ");
}
