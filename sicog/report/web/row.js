// One row, whole: its image with the slices on request, the question, all candidates side by side.

const VIEW = { showSlices: false };

/** The element that shows a row. */
function rowShown(text) {
  const picture = pictureShown((text.images ?? [])[0]);
  const asked = el("div", { class: "asked" }, questionShown(text), extraShown(text));
  const top = el("div", { class: picture ? "row-top" : "row-top plain" }, picture, asked);
  return el("div", {}, top, candidatesShown(text), turnsShown(text));
}

/** What stands beside a row's id: whether it was kept, and why not. */
function stateShown(text) {
  const state = text.state ?? "";
  const tag = state === "kept" || state === "dropped" ? el("span", { class: `tag ${state}` }, state) : null;
  const why = text.reason ? el("span", { class: "quiet" }, `${worded(text.reason)}${text.detail ? `: ${text.detail}` : ""}`) : null;
  return [tag, why];
}

function questionShown(text) {
  const asked = text.question ? el("p", { class: "question" }, text.question) : null;
  return [asked, text.truth !== undefined ? el("p", { class: "quiet" }, "truth: ", el("span", { class: "ink" }, text.truth)) : null];
}

/** Whether a name stays within the image folder; sicog/data/images.py refuses the same ones. */
function linkable(name) {
  const leaves = /^[a-z][a-z0-9+.-]*:/i.test(name) || /^[/\\]/.test(name) || name.split(/[/\\]/).includes("..");
  return name !== "" && !name.includes("\0") && !leaves;
}

function pictureShown(name) {
  if (name === undefined) return null;
  const inline = page.pictures[name];
  const link = page.images && linkable(name) ? page.images + name.split("/").map(encodeURIComponent).join("/") : null;
  const src = inline?.src ?? (inline ? null : link);
  const frame = el("div", { class: "frame" });
  const told = el("p", { class: "quiet told", "aria-live": "polite" });
  const box = el("figure", { class: "picture" }, frame);
  const say = (why) => frame.replaceChildren(el("div", { class: "no-picture" }, "no picture", el("small", {}, why)));
  if (!src) {
    const without = page.images === null ? "this page was made without an image folder" : "its name leads out of the image folder";
    say(inline?.missing ?? without);
    return el("figure", { class: "picture" }, frame, captionShown(name, null, null));
  }
  const image = el("img", { src, alt: "", decoding: "async", onerror: () => say("it is not where this page looks for it") });
  frame.append(image);
  const draw = () => {
    const [width, height] = inline?.size ?? [image.naturalWidth, image.naturalHeight];
    frame.querySelector(".slices")?.remove();
    told.replaceChildren();
    if (!VIEW.showSlices || !width) return;
    const plan = planSlices(width, height, page.slicing);
    frame.append(slicesDrawn(width, height, plan));
    told.append(`${width} × ${height} pixels. ${slicesTold(plan)}`);
  };
  image.addEventListener("load", draw);
  const flip = (event) => {
    VIEW.showSlices = event.target.checked;
    draw();
  };
  const slices = el("label", { class: "check" }, el("input", { type: "checkbox", onchange: flip, id: "show-slices" }), "slices");
  slices.firstChild.checked = VIEW.showSlices;
  box.append(captionShown(name, slices, link), told);
  return box;
}

function captionShown(name, slices, link) {
  const label = link ? el("a", { href: link, target: "_blank", rel: "noopener" }, name) : el("span", {}, name);
  return el("figcaption", {}, el("span", { class: "file" }, label), slices);
}

function candidatesShown(text) {
  if (!text.candidates) return null;
  const chosen = text.chosen === null || text.chosen === undefined ? null : text.candidates[text.chosen];
  const shown = el("div", { class: "candidates" }, text.candidates.map((candidate) => candidateShown(candidate, chosen, text)));
  return [
    shown,
    shown.querySelector("mark") ? el("p", { class: "quiet key-line" }, el("mark", {}, "marked"), " words differ from the chosen candidate") : null,
    shown.querySelector(".claim") ? supportKey() : null,
  ];
}

function candidateShown(candidate, chosen, text) {
  const best = candidate === chosen;
  const compared = candidate.compared ?? candidate.text;
  const against = chosen ? (chosen.compared ?? chosen.text) : null;
  const label = best ? { kept: "chosen", dropped: "best, yet dropped", open: "best" }[text.state] ?? "chosen" : null;
  const told = candidate.claims ? supported(compared, candidate.claims) : best || against === null ? compared : marked(compared, against);
  const words = el("p", { class: "words" }, told);
  return el(
    "article",
    { class: `candidate${best ? " best" : ""}${candidate.excluded ? " out" : ""}` },
    el("header", {}, el("span", { class: "style" }, candidate.style), label ? el("span", { class: "tag kept" }, label) : null),
    marksShown(candidate, text),
    candidate.excluded ? el("p", { class: "why" }, `cannot be chosen: ${worded(candidate.excluded)}`) : null,
    words,
    stepsShown(candidate),
    notesShown(candidate),
  );
}

function marksShown(candidate, text) {
  const shown = [];
  const add = (name, value, css) => shown.push(el("div", { class: css ?? "" }, el("dt", {}, name), el("dd", {}, value)));
  if (candidate.score !== undefined) add("score", score(candidate.score));
  if (candidate.agreement !== undefined) add("agreement", score(candidate.agreement));
  if (candidate.vote !== undefined) add("vote", score(candidate.vote, 2));
  if (candidate.margin !== undefined) add("margin", score(candidate.margin, 2));
  if (candidate.answer !== undefined) add("answer", candidate.answer);
  if (candidate.truth !== undefined) {
    const asked = text.task === "reasoning";
    const css = asked ? (candidate.truth ? "good" : "bad") : "";
    add(asked ? "truth" : "truth (F1)", asked ? (candidate.truth ? "right" : "wrong") : score(candidate.truth, 2), css);
  }
  return shown.length ? el("dl", { class: "marks" }, shown) : null;
}

/** What the colours of claims say. */
function supportKey() {
  const step = (support) => el("span", { class: "claim", style: shade(support) }, score(support, 2));
  return el("p", { class: "quiet key-line" }, "share of the other candidates that state it: ", [0, 0.25, 0.5, 0.75, 1].flatMap((s) => [step(s), " "]));
}

/** The claims of a row that was written from claims, each with its support. */
function claimsListed(text) {
  if (!text.claims) return null;
  const one = ([key, support, seen]) => el("li", {}, el("span", { class: "claim", style: shade(support), title: claimTold(support, seen) }, key));
  return [el("ul", { class: "claims" }, text.claims.map(one)), supportKey()];
}

/** The steps before the last one, folded: what was compared stands above them. */
function stepsShown(candidate) {
  const steps = chainSteps(candidate.text);
  if (steps.length < 2) {
    return candidate.compared && candidate.compared !== candidate.text.trim()
      ? el("details", {}, el("summary", {}, "the full text"), el("p", { class: "words" }, candidate.text))
      : null;
  }
  const before = steps.slice(0, -1).map(([heading, body]) => el("li", {}, el("b", {}, heading), el("p", { class: "words" }, body)));
  return el("details", {}, el("summary", {}, `${plural(before.length, "step")} before it`), el("ol", { class: "steps" }, before));
}

function notesShown(candidate) {
  const notes = [];
  if (candidate.tokens !== undefined) notes.push(plural(candidate.tokens, "token"));
  if (candidate.finish === "length") notes.push("cut by the length limit");
  if (candidate.corruptions) notes.push(`image corrupted by ${candidate.corruptions}`);
  return notes.length ? el("footer", {}, notes.join(" · ")) : null;
}

function turnsShown(text) {
  if (!text.turns) return null;
  const turn = ([role, words]) => {
    const steps = role === "assistant" ? chainSteps(words) : [];
    const last = steps.length > 1 ? steps.at(-1)[1] : words;
    return el("div", { class: `turn ${role === "assistant" ? "assistant" : "user"}` },
      el("span", { class: "role" }, role), el("p", { class: "words" }, last), stepsShown({ text: words, compared: last }));
  };
  return el("div", { class: "turns" }, text.turns.map(turn), claimsListed(text));
}

function extraShown(text) {
  const known = { ...(text.extra ?? {}), ...(text.encoder ? { encoder: text.encoder } : {}) };
  const lines = Object.entries(known).map(([name, value]) => [
    el("dt", {}, name), el("dd", {}, typeof value === "string" ? value : JSON.stringify(value)),
  ]);
  return lines.length ? el("details", { class: "extra" }, el("summary", {}, "where it comes from"), el("dl", {}, lines)) : null;
}
