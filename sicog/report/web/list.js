// The list of rows: of any number of rows only those in view are elements.

const LINE = 44; // pixels of a row, as in page.css

/** A list box that calls `choose(row)`; `show(rows, row)` fills it and marks a row. */
function rowList(choose) {
  const space = el("div", { class: "space", role: "presentation" });
  const box = el("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": "rows", onscroll: () => draw(), onkeydown: step });
  box.append(space);
  let rows = new Uint32Array(0);
  let current = -1;

  function show(newRows, row) {
    rows = newRows;
    current = rows.indexOf(row);
    space.style.height = `${rows.length * LINE}px`;
    reveal();
    draw();
  }

  function draw() {
    const first = Math.max(0, Math.floor(box.scrollTop / LINE) - 4);
    const last = Math.min(rows.length, Math.ceil((box.scrollTop + (box.clientHeight || 600)) / LINE) + 4);
    const lines = [];
    for (let i = first; i < last; i++) lines.push(line(i));
    space.replaceChildren(...lines);
    box.setAttribute("aria-activedescendant", current >= 0 ? `line-${current}` : "");
  }

  function line(i) {
    const row = rows[i];
    const value = index.value[row];
    const state = named("state", row) ?? "open";
    const node = el(
      "div",
      { class: "line", id: `line-${i}`, role: "option", "aria-selected": String(i === current), onclick: () => choose(row) },
      el("span", { class: `dot ${state}`, title: state === "open" ? "not selected yet" : state }),
      el("span", { class: "name" }, index.ids[row]),
      el("span", { class: "style" }, named("style", row) ?? ""),
      el("span", { class: "number" }, Number.isNaN(value) ? "–" : score(value)),
    );
    node.style.top = `${i * LINE}px`;
    return node;
  }

  function reveal() {
    if (current < 0) return;
    const top = current * LINE;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + LINE > box.scrollTop + box.clientHeight) box.scrollTop = top + LINE - box.clientHeight;
  }

  function step(event) {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -rows.length, End: rows.length };
    if (!(event.key in moves) || !rows.length) return;
    event.preventDefault();
    choose(rows[Math.min(rows.length - 1, Math.max(0, current + moves[event.key]))]);
  }

  return { box, show };
}
