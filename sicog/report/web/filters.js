// Which rows are shown, and in which order: loops over the columns of the index, quick for 100,000 rows.

const CODES = ["set", "style", "state", "reason"];
const ORDERS = {
  order: ["as written", null],
  "score-down": ["score, highest first", (a, b) => order(index.value[b], index.value[a], a, b)],
  "score-up": ["score, lowest first", (a, b) => order(index.value[a], index.value[b], a, b)],
  "words-down": ["longest first", (a, b) => index.words[b] - index.words[a] || a - b],
  "words-up": ["shortest first", (a, b) => index.words[a] - index.words[b] || a - b],
  "support-up": ["support of the weakest claim, lowest first", (a, b) => known(index.support, a, b) || index.support[a] - index.support[b] || a - b],
  id: ["id", (a, b) => (index.ids[a] < index.ids[b] ? -1 : index.ids[a] > index.ids[b] ? 1 : a - b)],
};

/** Numbers before what is not known, whichever way they are sorted. */
function order(first, second, a, b) {
  if (Number.isNaN(first) || Number.isNaN(second)) {
    return Number.isNaN(index.value[a]) - Number.isNaN(index.value[b]) || a - b;
  }
  return first - second || a - b;
}

/** Rows with a value before those without. */
function known(column, a, b) {
  return Number.isNaN(column[a]) - Number.isNaN(column[b]);
}

/** The rows that `want` asks for, sorted. `hits`: for each row whether a text search found it, or null. */
function matching(want, hits) {
  const codes = CODES.filter((column) => want[column]).map((column) => [
    index[column],
    index.names[column].indexOf(want[column]),
  ]);
  const [low, high] = [want.low ?? -Infinity, want.high ?? Infinity];
  const ranged = want.low !== null || want.high !== null;
  const truest = want.truest === "" ? null : Number(want.truest);
  const found = new Uint32Array(index.size);
  let n = 0;
  for (let row = 0; row < index.size; row++) {
    if (hits && !hits[row]) continue;
    if (ranged && !(index.value[row] >= low - 1e-7 && index.value[row] <= high + 1e-7)) continue;
    if (want.weakest !== null && !(index.support[row] < want.weakest - 1e-7)) continue;
    if (truest !== null && index.truest[row] !== truest) continue;
    if (codes.every(([column, code]) => column[row] === code)) found[n++] = row;
  }
  const rows = found.subarray(0, n);
  const compare = ORDERS[want.order][1];
  return compare ? rows.sort(compare) : rows;
}

/** Marks the rows whose id or texts hold the words, file by file; `progress` hears of each, and false stops it. */
async function searched(words, inTexts, progress) {
  const wanted = words.toLowerCase();
  const hits = Uint8Array.from(index.ids, (id) => (id.toLowerCase().includes(wanted) ? 1 : 0));
  if (!inTexts) return hits;
  if (index.places) {
    index.places.forEach((place, row) => (hits[row] ||= holds(sampleTexts.get(place), wanted)));
    return hits;
  }
  const last = Math.ceil(index.size / page.per_file);
  for (let number = 0; number < last; number++) {
    if (!progress(number, last)) return null;
    const rows = await fileOf(number);
    rows.forEach((text, i) => (hits[number * page.per_file + i] ||= holds(text, wanted)));
  }
  return hits;
}

/** Whether any text within a value holds the words. */
function holds(value, words) {
  if (typeof value === "string") return Number(value.toLowerCase().includes(words));
  if (value === null || typeof value !== "object") return 0;
  return Number(Object.values(value).some((inner) => holds(inner, words)));
}
