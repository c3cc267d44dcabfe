// Starts the page: thresholds, the browser of rows, then what lies beside it, all rows and the steps' times.

const browser = document.getElementById("browser") ? browse(document.getElementById("browser")) : null;

for (const root of document.querySelectorAll(".threshold")) {
  const name = root.dataset.set;
  const { cuts, told } = page.thresholds[name];
  const look = (from) => {
    browser?.look({ set: index.names.set.includes(name) ? name : "", low: from, order: "score-up" });
    document.getElementById("rows")?.scrollIntoView();
  };
  thresholdShown(root, name, cuts, told, look);
}

/** Called by times.js. */
function sicogTimes(steps) {
  if (!steps.length) return;
  const section = document.getElementById("times");
  document.getElementById("times-link").hidden = section.hidden = false;
  timesShown(section.querySelector(".scroll"), steps);
}

loadScript("times.js").catch(() => {}); // a page that was passed on alone has no times
if (page.rows > page.sample.places.length) {
  loadScript("rows/index.js").then(() => browser.restart(), () => browser.restart());
} else {
  browser?.restart();
}
