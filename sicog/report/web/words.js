// Comparing texts: the words in which a candidate differs from the chosen one, and the steps of a chain.

const MOST_CELLS = 4e6; // of the table of common words; longer texts are compared as sets

/** The pieces of `text` as [piece, differs]: those that are not in a longest common sequence with `other`. */
function differences(text, other) {
  const pieces = text.split(/(\s+)/);
  const [ours, theirs] = [pieces.filter((_, i) => i % 2 === 0).map(bare), other.split(/\s+/).map(bare)];
  const common = ours.length * theirs.length > MOST_CELLS ? inSet(ours, theirs) : inSequence(ours, theirs);
  return pieces.map((piece, i) => [piece, i % 2 === 0 && piece !== "" && !common[i / 2]]);
}

/** A word without its case and the signs around it. */
function bare(word) {
  return word.toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "") || word;
}

function inSet(ours, theirs) {
  const known = new Set(theirs);
  return ours.map((word) => known.has(word));
}

function inSequence(ours, theirs) {
  const [n, m] = [ours.length, theirs.length];
  const longest = new Uint16Array((n + 1) * (m + 1)); // of ours from i on and theirs from j on
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      longest[i * (m + 1) + j] =
        ours[i] === theirs[j]
          ? longest[(i + 1) * (m + 1) + j + 1] + 1
          : Math.max(longest[(i + 1) * (m + 1) + j], longest[i * (m + 1) + j + 1]);
    }
  }
  const common = new Array(n).fill(false);
  for (let i = 0, j = 0; i < n && j < m; ) {
    if (ours[i] === theirs[j]) common[i++] = true && ++j > 0;
    else if (longest[(i + 1) * (m + 1) + j] >= longest[i * (m + 1) + j + 1]) i++;
    else j++;
  }
  return common;
}

/** The text with its differing words marked. */
function marked(text, other) {
  return differences(text, other).map(([piece, differs]) => (differs ? el("mark", {}, piece) : piece));
}

/** The steps of a chain as [heading, body]; empty for a text without steps. */
function chainSteps(text) {
  const parts = text.split(/^Step \d+:/m);
  return parts.slice(1).map((part) => {
    const [heading, ...body] = part.split("\n");
    return [heading.trim(), body.join("\n").trim()];
  });
}

/** The text with its claims, [start, end, support, seen] each, coloured by support; where they overlap, by the shortest. */
function supported(text, claims) {
  const cuts = [...new Set([0, text.length, ...claims.flatMap(([start, end]) => [start, end])])].sort((a, b) => a - b);
  return cuts.slice(0, -1).map((from, i) => {
    const piece = text.slice(from, cuts[i + 1]);
    const over = claims.filter(([start, end]) => start <= from && from < end);
    if (!over.length) return piece;
    const [, , support, seen] = over.reduce((a, b) => (b[1] - b[0] < a[1] - a[0] ? b : a));
    return el("span", { class: "claim", style: shade(support), title: claimTold(support, seen) }, piece);
  });
}

/** From the colour of what nobody else states to that of what all do. */
function shade(support) {
  return support === null || support === undefined ? "" : `--support: ${Math.round(support * 100)}%`;
}

function claimTold(support, seen) {
  const others = support === null || support === undefined ? "nobody else could have stated it" : `stated by ${Math.round(support * 100)} % of the others`;
  return seen === null || seen === undefined ? others : `${others}; at best by ${Math.round(seen * 100)} % of those that were shown one window`;
}
