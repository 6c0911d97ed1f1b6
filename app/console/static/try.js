// The try-it page: one image, asked about twice, without and with a credential. Answers are put in as text, never as HTML.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const element = (id) => document.getElementById(id);
let preview = null;
let asking = null;

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function bar(share) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "bar");
  svg.setAttribute("viewBox", "0 0 100 6");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true"); // the number beside it says the same
  for (const [className, width] of [["track", 100], ["fill", 100 * share]]) {
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("class", className);
    rect.setAttribute("width", String(width));
    rect.setAttribute("height", "6");
    svg.append(rect);
  }
  return svg;
}

function score(entry) {
  const item = make("li");
  const line = make("div", "line");
  line.append(make("span", "", entry.label), make("span", "", `${(100 * entry.score).toFixed(2)} %`));
  item.append(line, bar(entry.score));
  return item;
}

async function ask(image, model, credential, signal) {
  const headers = { "Content-Type": "application/octet-stream" };
  if (credential) headers.Authorization = `Bearer ${credential}`;
  try {
    const address = `/v1/models/${encodeURIComponent(model)}/predict`;
    const answer = await fetch(address, { method: "POST", headers, body: image, signal, credentials: "omit" });
    const body = await answer.json();
    return answer.ok ? body : { refused: `${body.title}: ${body.detail}` };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { refused: "The server did not answer, or the file cannot be read." };
  }
}

function show(place, answer) {
  if (answer.refused) {
    place.replaceChildren(make("p", "problem", answer.refused));
    return;
  }
  const [prediction] = answer.predictions;
  const list = make("ol", "scores");
  list.append(...prediction.top.map(score));
  const parts = [make("p", "soft", `tier: ${answer.tier}`), list];
  if (answer.budget && answer.budget.limit !== null) {
    parts.push(make("p", "soft", `${answer.budget.remaining} answers of the budget are left.`));
  }
  place.replaceChildren(...parts);
}

function meaning(open, own) {
  const disturbed =
    "Below its best class, the public answer is made up on purpose, by a secret function and not by the model: " +
    "a student network that is trained on it learns little.";
  if (!own) return disturbed + " A credential with the scope distill gets the model's own soft labels.";
  if (open.refused || own.refused) return "At least one of the two got no answer; the text in its place says why.";
  if (own.tier !== "distill") return "This credential has not the scope distill for this model, so it is shown what everybody is shown.";
  const [first, second] = [open, own].map((answer) => answer.predictions[0].label);
  const best =
    first === second
      ? `Both name the same best class (${first}), so both are good for using the model. `
      : `The two name different classes (${first}, ${second}): a locked model gives right answers only to those who may unlock it. `;
  return best + disturbed + " The credential's answer is the model's own soft label, which a student can learn from.";
}

const digits = (number) => (number === undefined ? "–" : number.toFixed(3));

function table(open, own) {
  const answers = [open, own].map((answer) => answer && !answer.refused && answer.predictions[0]);
  const classes = JSON.parse(element("model").selectedOptions[0].dataset.classes);
  const rows = classes.map((label, index) => {
    const row = make("tr");
    const head = make("th", "", label);
    head.scope = "row";
    row.append(head, ...answers.map((answer) => make("td", "count", digits(answer ? answer.logits[index] : undefined))));
    return row;
  });
  element("rows").replaceChildren(...rows);
  element("logits").hidden = !answers.some(Boolean);
}

async function submit(event) {
  event.preventDefault();
  const [image] = element("image").files;
  if (!image) return;
  if (asking) asking.abort();
  const controller = new AbortController();
  asking = controller;
  const credential = element("credential").value.trim();
  const model = element("model").value;
  element("status").textContent = "Asking…";
  try {
    const [open, own] = await Promise.all([
      ask(image, model, "", controller.signal),
      credential ? ask(image, model, credential, controller.signal) : null,
    ]);
    show(element("public"), open);
    if (own) show(element("own"), own);
    else element("own").replaceChildren(make("p", "soft", "Give a credential to see its answer beside the public one."));
    element("meaning-text").textContent = meaning(open, own);
    table(open, own);
    element("answers").hidden = element("meaning").hidden = false;
    element("status").textContent = "Answered.";
  } catch (error) {
    if (error.name !== "AbortError") throw error; // a newer question took its place
  }
}

function chosen() {
  const [image] = element("image").files;
  if (preview) URL.revokeObjectURL(preview);
  preview = image ? URL.createObjectURL(image) : null;
  element("preview").hidden = !preview;
  if (preview) {
    element("preview").src = preview;
    element("preview").alt = `Preview of ${image.name}`;
    element("answers").hidden = element("meaning").hidden = true;
    element("status").textContent = "";
    if (!element("credential").value) element("ask").requestSubmit(); // what may cost something waits for the button
  }
}

function dropped(event) {
  event.preventDefault();
  element("drop").classList.remove("over");
  if (!event.dataTransfer.files.length) return;
  element("image").files = event.dataTransfer.files;
  chosen();
}

element("scriptless").hidden = true;
element("ask").hidden = false;
element("ask").addEventListener("submit", submit);
element("image").addEventListener("change", chosen);
element("drop").addEventListener("drop", dropped);
element("drop").addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
element("drop").addEventListener("dragleave", () => element("drop").classList.remove("over"));
window.addEventListener("pagehide", () => { element("credential").value = ""; }); // also before the page is put aside whole
