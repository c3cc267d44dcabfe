// How an image is cut: sicog/model/slicing.py in JavaScript, ties included (tests/report/test_browser.py holds both
// against each other). Sizes are [width, height] in pixels.

/** {thumbnail, grid: [columns, rows] or null, slice: size or null} of an image. */
function planSlices(width, height, { scale, patch_size: patch, max_slices: most }) {
  const n = Math.min(Math.ceil((width * height) / (scale * scale)), most);
  if (n <= 1) return { thumbnail: fitted(width, height, scale, patch, true), grid: null, slice: null };
  const [columns, rows] = bestGrid(width, height, n, most);
  const cell = [Math.max(Math.floor(width / columns), 1), Math.max(Math.floor(height / rows), 1)];
  return {
    thumbnail: fitted(width, height, scale, patch, false),
    grid: [columns, rows],
    slice: fitted(cell[0], cell[1], scale, patch, true),
  };
}

function fitted(width, height, scale, patch, enlarge) {
  if (width * height > scale * scale || enlarge) {
    const ratio = width / height;
    height = Math.trunc(scale / Math.sqrt(ratio));
    width = Math.trunc(height * ratio);
  }
  return [Math.max(Math.floor(width / patch), 1) * patch, Math.max(Math.floor(height / patch), 1) * patch];
}

function bestGrid(width, height, n, most) {
  const logRatio = Math.log(width / height);
  let best = [1, 1];
  let bestError = Infinity;
  for (const slices of [n - 1, n, n + 1]) {
    if (slices === 1 || slices > most) continue;
    for (let columns = 1; columns <= slices; columns++) {
      if (slices % columns) continue;
      const error = Math.abs(logRatio - Math.log(columns / (slices / columns)));
      if (error < bestError) [best, bestError] = [[columns, slices / columns], error];
    }
  }
  return best;
}

/** Lines and numbers over an image of this size, as an SVG of the same proportions. */
function slicesDrawn(width, height, plan) {
  const [columns, rows] = plan.grid ?? [1, 1];
  const [w, h] = [width / columns, height / rows];
  const size = Math.min(w, h) * 0.16;
  const cells = [];
  for (let i = 0; i < columns * rows; i++) {
    const [x, y] = [(i % columns) * w, Math.floor(i / columns) * h];
    cells.push(svg("rect", { x, y, width: w, height: h, class: "slice" }));
    cells.push(svg("text", { x: x + size * 0.45, y: y + size * 1.2, "font-size": size, class: "slice-number" }, i + 1));
  }
  return svg("svg", { class: "slices", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, cells);
}

/** What the model sees of the image, in words. */
function slicesTold(plan) {
  const whole = `${plan.thumbnail[0]} × ${plan.thumbnail[1]}`;
  if (!plan.grid) return `Not cut: one view of ${whole} pixels.`;
  const [columns, rows] = plan.grid;
  const views = plural(columns * rows + 1, "view");
  return `${columns} × ${rows} slices of ${plan.slice[0]} × ${plan.slice[1]} pixels, and the whole image at ${whole}: ${views}.`;
}
