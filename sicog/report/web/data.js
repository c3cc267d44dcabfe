// What the page knows: the sample within it, the index of all rows and their texts in the script files beside it.
// A page opened from a disk may not fetch, so these files are added as script tags and call the functions below.

const page = JSON.parse(document.getElementById("data").textContent);
const FILES_KEPT = 24;
const sampleTexts = new Map(page.sample.places.map((place, i) => [place, page.sample.texts[i]]));
const files = new Map(); // the texts that were loaded last, by the number of their file
const arriving = new Map();
let index = decodedIndex(page.sample.index, page.sample.places);

/** Columns of rows: names, ids, typed arrays, and the place of each row among all (`places` null: its own number). */
function decodedIndex({ ids, names, columns }, places) {
  const types = { value: Float32Array, truth: Float32Array, support: Float32Array, words: Uint16Array };
  const found = { ids, names, places, size: ids.length };
  for (const [name, data] of Object.entries(columns)) found[name] = decoded(data, types[name] ?? Uint8Array);
  found.hasTruth = found.truest.some((code) => code !== 255);
  found.hasSupport = found.support !== undefined;
  return found;
}

function decoded(base64, type) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new type(bytes.buffer);
}

/** The name that a row has in a column of codes, or null. */
function named(column, row) {
  return index.names[column][index[column][row]] ?? null;
}

/** Add a script file; resolves when it ran, rejects when it is not there. */
function loadScript(src) {
  return new Promise((resolve, reject) => {
    const done = (settle) => () => {
      script.remove();
      settle();
    };
    const missing = () => reject(new Error(`${src} is not beside this page`));
    const script = el("script", { src, onload: done(resolve), onerror: done(missing) });
    document.head.append(script);
  });
}

/** Called by rows/NNNNN.js. */
function sicogRows(number, rows) {
  files.delete(number);
  files.set(number, rows);
  if (files.size > FILES_KEPT) files.delete(files.keys().next().value);
}

/** Called by rows/index.js. */
function sicogIndex(value) {
  index = decodedIndex(value, null);
}

/** The texts of one file. */
async function fileOf(number) {
  if (!files.has(number)) {
    if (!arriving.has(number)) {
      const src = `rows/${String(number).padStart(5, "0")}.js`;
      arriving.set(number, loadScript(src).finally(() => arriving.delete(number)));
    }
    await arriving.get(number);
  }
  return files.get(number) ?? Promise.reject(new Error(`rows/${number}.js holds no rows`));
}

/** The texts of a row, by its place among all. */
async function textOf(place) {
  return sampleTexts.get(place) ?? (await fileOf(Math.floor(place / page.per_file)))[place % page.per_file];
}

/** The place of a row among all. */
function placeOf(row) {
  return index.places ? index.places[row] : row;
}

/** The row of an id, or -1; `set` tells rows of one id apart. */
function rowOf(id, set = null) {
  const row = index.ids.findIndex((other, i) => other === id && (set === null || named("set", i) === set));
  return row === -1 && set !== null ? rowOf(id) : row;
}
