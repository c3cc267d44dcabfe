// The browser of rows: filters above, the list beside the row that is looked at, keys, and a link to each row.

const EMPTY = { words: "", set: "", style: "", state: "", reason: "", truest: "", low: null, high: null, weakest: null, order: "order" };
const TEXTS_AT_ONCE = 20; // files: a search through more of them waits for the Enter key

/** Fill #browser; returns {look}, which shows rows by other wishes. */
function browse(root) {
  const want = { ...EMPTY };
  let [hits, shown, row, search] = [null, new Uint32Array(0), -1, 0];
  const fields = filterFields(want, changed, search_texts);
  const told = el("p", { class: "told-rows", role: "status" });
  const list = rowList((chosen) => choose(chosen, true));
  const detail = el("div", { class: "detail" });
  root.replaceChildren(
    el("details", { class: "filters", open: window.innerWidth > 700 }, el("summary", {}, "Filter and sort"), fields.box),
    told,
    el("div", { class: "panes" }, list.box, detail),
  );

  function changed() {
    shown = matching(want, hits);
    if (!shown.includes(row)) row = shown.length ? shown[0] : -1;
    refresh();
  }

  function refresh() {
    const all = page.rows;
    const of = index.places && index.size < all ? `the ${count(index.size)} rows that this page holds itself, of ${count(all)}` : plural(all, "row");
    told.replaceChildren(shown.length === index.size ? `All ${of.replace(/^the /, "")}` : `${count(shown.length)} of ${of}`);
    list.show(shown, row);
    detailOf(row);
  }

  async function search_texts(words, now) {
    const mine = ++search;
    want.words = words;
    if (!words) {
      hits = null;
      return changed();
    }
    const inTexts = now || index.places !== null || index.size <= TEXTS_AT_ONCE * page.per_file;
    const progress = (done, all) => {
      if (mine === search && all > 5) told.textContent = `Searching: ${percent(done, all)} of all texts …`;
      return mine === search;
    };
    try {
      const found = await searched(words, inTexts, progress);
      if (mine !== search || !found) return undefined;
      hits = found;
      changed();
      if (!inTexts) told.append(" by their id; the Enter key searches all texts");
    } catch (error) {
      told.textContent = `The search stopped: ${error.message}.`;
    }
    return undefined;
  }

  function choose(chosen, linked) {
    row = chosen;
    list.show(shown, row);
    detailOf(row);
    if (linked && row >= 0) window.history.replaceState(null, "", linkTo(row));
  }

  async function detailOf(of) {
    if (of < 0) return detail.replaceChildren(el("p", { class: "quiet nothing" }, "No row is like that."));
    try {
      const text = await textOf(placeOf(of));
      if (of === row) detail.replaceChildren(headShown(of, text), rowShown(text));
    } catch (error) {
      if (of === row) detail.replaceChildren(headShown(of, {}), el("p", { class: "quiet" }, `${error.message}; take the folder rows along with the page.`));
    }
    return undefined;
  }

  function headShown(of, text) {
    const at = shown.indexOf(of);
    const go = (by, label, sign) =>
      el("button", { type: "button", class: "turn-page", "aria-label": label, title: label, disabled: !shown.length, onclick: () => move(by) }, sign);
    return el(
      "header",
      { class: "row-head" },
      el("div", { class: "pager" }, go(-1, "previous row", "←"), el("span", {}, `${count(at + 1)} / ${count(shown.length)}`), go(1, "next row", "→")),
      el("h3", {}, el("a", { href: linkTo(of), title: "a link to this row" }, index.ids[of])),
      el("div", { class: "state" }, el("span", { class: "quiet" }, named("set", of) ?? ""), stateShown(text)),
    );
  }

  function move(by) {
    if (!shown.length) return;
    const at = shown.indexOf(row);
    choose(shown[Math.min(shown.length - 1, Math.max(0, at + by))], true);
  }

  function linkTo(of) {
    const set = named("set", of);
    const alone = index.names.set.length < 2 || rowOf(index.ids[of]) === of;
    return `#row=${encodeURIComponent(index.ids[of])}${alone ? "" : `&set=${encodeURIComponent(set)}`}`;
  }

  /** Go to the row that the address names, whatever the filters are; false when there is none. */
  function follow() {
    const wanted = new URLSearchParams(window.location.hash.slice(1));
    if (!wanted.has("row")) return false;
    const found = rowOf(wanted.get("row"), wanted.get("set"));
    if (found < 0) {
      told.textContent = `There is no row ${wanted.get("row")}${index.places && page.rows > index.size ? " in this page’s sample" : ""}.`;
      return false;
    }
    look({}, found);
    (window.innerWidth > 760 ? root.closest("section") : detail).scrollIntoView();
    return true;
  }

  /** Show the rows of other wishes, and one of them. */
  function look(wishes, wanted = -1) {
    Object.assign(want, EMPTY, wishes);
    [hits, row] = [null, wanted];
    search++;
    fields.fill();
    changed();
  }

  document.addEventListener("keydown", (event) => {
    const busy = event.target.closest("input, select, textarea, .list");
    if (event.altKey || event.ctrlKey || event.metaKey || (busy && !busy.matches(".list"))) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      move(event.key === "ArrowLeft" ? -1 : 1);
    }
  });
  window.addEventListener("hashchange", follow);

  /** Take up a new index: the sample's, or that of all rows. */
  function restart() {
    const id = row >= 0 && row < index.size ? index.ids[row] : null;
    hits = null;
    fields.fill();
    row = -1;
    if (id === null) changed();
    else look({}, Math.max(0, rowOf(id)));
    follow();
  }

  changed();
  return { look, restart };
}

/** The filter's fields. `changed`: after each choice; `search(words, now)`: for the words, `now` after the Enter key. */
function filterFields(want, changed, search) {
  const box = el("form", { class: "fields", onsubmit: (event) => event.preventDefault() });
  const put = (name, value) => {
    want[name] = value;
    changed();
  };
  const option = ([value, label]) => el("option", { value }, label);
  const choice = (name, label, options) => {
    const select = el("select", { id: `filter-${name}`, onchange: (event) => put(name, event.target.value) }, options.map(option));
    select.value = want[name];
    return el("label", {}, el("span", {}, label), select);
  };
  const names = (column, all) => [["", all], ...index.names[column].map((name) => [name, worded(name)])];
  const number = (name, label, of = "score") => {
    const value = want[name] ?? "";
    const input = (event) => put(name, event.target.value === "" ? null : Number(event.target.value));
    return el("input", { type: "number", step: "any", id: `filter-${name}`, placeholder: label, "aria-label": `${of} ${label}`, value, oninput: input });
  };

  function fill() {
    const typed = (event) => search(event.target.value.trim(), false);
    const entered = (event) => {
      if (event.key === "Enter") search(event.target.value.trim(), true);
    };
    const words = el("input", { type: "search", id: "filter-words", placeholder: "words or id", value: want.words, oninput: typed, onkeydown: entered });
    const several = (column) => index.names[column].length > 1 || (index.names[column].length && index[column].includes(255));
    const parts = [
      el("label", { class: "wide" }, el("span", {}, "search"), words),
      several("set") ? choice("set", "task", names("set", "all")) : null,
      several("style") ? choice("style", "style", names("style", "all")) : null,
      several("state") ? choice("state", "kept", names("state", "kept or not")) : null,
      index.names.reason.length ? choice("reason", "dropped for", names("reason", "any reason")) : null,
      index.hasTruth ? choice("truest", "chosen one is", [["", "any"], ["1", "the truest"], ["0", "not the truest"]]) : null,
      el("div", { class: "range" }, el("span", {}, "score"), number("low", "from"), number("high", "to")),
      index.hasSupport ? el("div", { class: "range" }, el("span", {}, "a claim supported by less than"), number("weakest", "0 to 1", "weakest claim")) : null,
      choice("order", "sort by", Object.entries(ORDERS).filter(([name]) => name !== "support-up" || index.hasSupport).map(([name, [label]]) => [name, label])),
    ];
    const reset = () => {
      Object.assign(want, EMPTY);
      fill();
      search("", false);
    };
    box.replaceChildren(...parts.filter(Boolean), el("button", { type: "button", onclick: reset }, "Reset"));
  }
  fill();
  return { box, fill };
}
