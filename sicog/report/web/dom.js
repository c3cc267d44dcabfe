// Building elements and writing numbers. Every text of data enters the page here, as text and never as markup.

/** An element: attributes (`class`, `onclick` as a function, ...), then children: nodes, texts or null. */
function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined).map(asNode));
  return node;
}

function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

/** 12345 -> 12,345 */
function count(n) {
  return n.toLocaleString("en-US");
}

/** A score with as many digits as it needs, 3 by default; a dash for what is not known. */
function score(value, digits = 3) {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(digits).replace("-", "−");
}

/** A share in per cent. */
function percent(part, whole) {
  if (!whole) return "–";
  return `${((100 * part) / whole).toFixed(1).replace(/\.0$/, "")} %`;
}

/** low_consistency -> low consistency */
function worded(name) {
  return name.replaceAll("_", " ");
}

/** 1 row, 2 rows */
function plural(n, word) {
  return `${count(n)} ${word}${n === 1 ? "" : "s"}`;
}
