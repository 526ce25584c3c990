// What the page gains with JavaScript: drop, paste and draw a picture, see it, watch it travel, and
// read the answer in place. Without this file the same form posts and a result page comes back.
"use strict";

const id = (name) => document.getElementById(name);
const form = id("form");
const input = id("image");
const pad = id("pad");
const RECENT = 12; // answers kept on the page
const tally = new Map(); // worker: how many answers it gave
let picture = null; // the Blob that "Classify" sends
let pending = null; // the request on its way

document.documentElement.classList.add("js");
id("curl").textContent =
  `curl -F image=@digit.png ${new URL("submit", form.action.replace(/submit$/, "")).href}`;
input.required = false;

// ---------------------------------------------------------------- where a picture comes from

function choose(file) {
  if (!file) return;
  const limit = Number(form.dataset.maxMb);
  picture = file;
  showPreview(file);
  if (limit && file.size > limit * 1e6) {
    showFailure("Too large", `This file has ${(file.size / 1e6).toFixed(1)} MB; the limit is ${limit} MB.`);
    return;
  }
  send();
}

function showPreview(file) {
  const preview = id("preview");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = `The picture you chose: ${file.name || "pasted"}`;
  preview.hidden = false;
  preview.onload = () => preview.classList.toggle("tiny", preview.naturalWidth < 100);
  preview.onerror = () => {
    preview.hidden = true;
    id("upload").classList.remove("has-preview");
  };
  id("upload").classList.add("has-preview");
}

input.addEventListener("change", () => choose(input.files[0]));

// A file may be dropped anywhere on the page: nobody should lose the page by missing the box.
const hasFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  document.body.classList.remove("dragging");
  setMode("upload");
  choose(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (!file) return;
  setMode("upload");
  choose(file);
});

function setMode(mode) {
  id("upload").hidden = mode !== "upload";
  id("draw").hidden = mode !== "draw";
  id("tab-upload").setAttribute("aria-pressed", String(mode === "upload"));
  id("tab-draw").setAttribute("aria-pressed", String(mode === "draw"));
  if (id("model-field")) id("model-field").hidden = mode === "draw";
  picture = null;
  if (mode === "draw") clearPad();
}

// ---------------------------------------------------------------- the drawing pad

const ink = pad.getContext("2d");
let blank = true;
let pen = null; // the pointer that draws

function clearPad() {
  ink.fillStyle = "#fff";
  ink.fillRect(0, 0, pad.width, pad.height);
  blank = true;
}

function moveTo(event) {
  const box = pad.getBoundingClientRect();
  const scale = pad.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

pad.addEventListener("pointerdown", (event) => {
  pen = event.pointerId;
  pad.setPointerCapture(pen);
  ink.lineWidth = 20;
  ink.lineCap = ink.lineJoin = "round";
  ink.strokeStyle = "#111";
  ink.beginPath();
  ink.moveTo(...moveTo(event));
  ink.lineTo(...moveTo(event));
  ink.stroke();
  blank = false;
});
pad.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pen) return;
  ink.lineTo(...moveTo(event));
  ink.stroke();
});
for (const end of ["pointerup", "pointercancel"]) {
  pad.addEventListener(end, () => { pen = null; });
}
id("clear").addEventListener("click", clearPad);
id("tab-upload").addEventListener("click", () => setMode("upload"));
id("tab-draw").addEventListener("click", () => setMode("draw"));

// ---------------------------------------------------------------- sending

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (id("draw").hidden) {
    if (picture) send();
    else input.click();
  } else if (blank) {
    showFailure("Nothing drawn yet", "Draw one digit on the pad, then press Classify.");
  } else {
    pad.toBlob((blob) => { picture = blob; send(); }, "image/png");
  }
});

// XMLHttpRequest, because fetch does not tell how far an upload is.
function send() {
  if (pending) pending.abort();
  const body = new FormData();
  const drawn = !id("draw").hidden;
  const model = drawn ? "mnist" : id("model")?.value;
  const servers = id("servers")?.value;
  if (servers) body.append("number_backend_servers", servers);
  if (model) body.append("model", model);
  body.append("image", picture, picture.name || "picture.png");

  const request = new XMLHttpRequest();
  const sent = picture;
  const start = performance.now();
  pending = request;
  request.open("POST", form.action);
  request.setRequestHeader("Accept", "application/json");
  request.timeout = 60000;
  request.upload.onprogress = (event) => showProgress(event.lengthComputable ? event.loaded / event.total : null);
  request.upload.onload = () => showProgress(1);
  request.onload = () => receive(request, sent, performance.now() - start);
  request.onerror = () => showFailure("No answer", "The balancer cannot be reached, or it closed the connection. Try again.");
  request.ontimeout = () => showFailure("No answer", "There was no answer within a minute. Try again.");
  request.onloadend = () => {
    if (pending !== request) return;
    pending = null;
    id("progress").hidden = true;
    id("go").disabled = false;
  };
  id("go").disabled = true;
  id("progress").hidden = false;
  showProgress(0);
  request.send(body);
}

id("cancel").addEventListener("click", () => pending?.abort());

function showProgress(share) {
  const bar = id("progress-bar");
  if (share === null || share >= 1) bar.removeAttribute("value");
  else bar.value = share * 100;
  id("progress-text").textContent = share === 1 ? "A worker is looking at it" : "Sending";
}

function receive(request, sent, milliseconds) {
  let answer = null;
  try {
    answer = JSON.parse(request.responseText);
  } catch {
    // A proxy in front may answer in its own words: the status line still says what happened.
  }
  if (request.status === 200 && answer?.top_k) {
    const entry = { url: URL.createObjectURL(sent), prediction: answer, milliseconds };
    showAnswer(entry);
    remember(entry);
  } else {
    showFailure(headline(request.status), answer?.error || `The answer was ${request.status} ${request.statusText}.`);
  }
}

function headline(status) {
  if (status === 413) return "Too large";
  if (status === 415 || status === 422) return "That is not a picture we can read";
  if (status === 429) return "Busy: too many pictures at once";
  if (status === 503) return "No worker is free";
  if (status === 504) return "It took too long";
  return status >= 500 ? "Something broke behind the balancer" : "That did not work";
}

// ---------------------------------------------------------------- showing

const clone = (name) => id(name).content.cloneNode(true);
const make = (tag, text, className) => Object.assign(document.createElement(tag), { textContent: text, className: className || "" });
const percent = (share) => `${(share * 100).toFixed(1)} %`;
const inMs = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

function show(node) {
  document.querySelector("#answer .empty, #answer .filled")?.remove();
  id("result").hidden = false;
  id("result").replaceChildren(node);
  id("answer").scrollIntoView({ block: "nearest" });
}

function showFailure(title, text) {
  const box = make("div", "", "failed");
  box.id = "failure";
  box.append(make("strong", title), make("span", text));
  show(box);
}

function showAnswer({ prediction, milliseconds }) {
  const view = clone("answer-template");
  view.querySelector(".kicker").textContent = prediction.confidence < 0.4 ? "Not sure, perhaps" : "It looks like";
  const label = view.querySelector(".label");
  label.textContent = prediction.label;
  label.classList.toggle("label-digit", prediction.label.length === 1);
  const fills = prediction.top_k.slice(0, 5).map((guess) => {
    const row = clone("bar-template");
    row.querySelector(".bar-name").textContent = guess.label;
    row.querySelector(".bar-value").textContent = percent(guess.confidence);
    const fill = row.querySelector(".bar-fill");
    fill.setAttribute("width", "0");
    view.querySelector(".bars").append(row);
    return [fill, guess.confidence];
  });
  showTimes(view, prediction.timings_ms, milliseconds);
  const facts = view.querySelector(".facts");
  addFact(facts, "Worker", prediction.endpoint);
  addFact(facts, "Model", `${prediction.model}, version ${prediction.version}`);
  addFact(facts, "Round trip", inMs(milliseconds));
  show(view);
  // The next frame, so that the bars grow from zero.
  requestAnimationFrame(() => requestAnimationFrame(() => {
    for (const [fill, share] of fills) fill.setAttribute("width", `${share * 100}%`);
  }));
}

function addFact(facts, name, value) {
  if (!value) return;
  const row = document.createElement("div");
  row.append(make("dt", name), make("dd", value));
  facts.append(row);
}

// One bar for the whole round trip: the worker's stages, and the rest is balancer and network.
function showTimes(view, timings, milliseconds) {
  if (!timings) return;
  const stages = [
    ["decode", "decode", timings.decode],
    ["preprocess", "prepare", timings.preprocess],
    ["queue", "queue", timings.queue],
    ["compute", "compute", timings.compute],
    ["network", "upload, balancer and network", Math.max(milliseconds - timings.total, 0)],
  ];
  const whole = stages.reduce((sum, stage) => sum + stage[2], 0) || 1;
  let left = 0;
  for (const [name, words, value] of stages) {
    const part = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, text] of Object.entries({ class: name, x: `${left}%`, width: `${(value / whole) * 100}%`, height: "100%" })) {
      part.setAttribute(key, text);
    }
    view.querySelector(".stack").append(part);
    view.querySelector(".legend").append(make("li", `${words} ${inMs(value)}`, name));
    left += (value / whole) * 100;
  }
}

// The last answers, and how often each worker gave one: the balancing made visible.
function remember(entry) {
  id("recent").hidden = false;
  const button = make("button", "");
  button.type = "button";
  const thumbnail = Object.assign(document.createElement("img"), { src: entry.url, alt: "" });
  const { label, confidence, endpoint } = entry.prediction;
  button.append(thumbnail, make("b", label),
    make("small", [percent(confidence), inMs(entry.milliseconds), endpoint].filter(Boolean).join(" · ")));
  button.addEventListener("click", () => showAnswer(entry));
  const row = document.createElement("li");
  row.append(button);
  id("recent-list").prepend(row);
  if (id("recent-list").children.length > RECENT) {
    const last = id("recent-list").lastElementChild;
    URL.revokeObjectURL(last.querySelector("img").src);
    last.remove();
  }
  if (endpoint) tally.set(endpoint, (tally.get(endpoint) || 0) + 1);
  id("tally").textContent = [...tally].sort().map(([name, count]) => `${name}: ${count}`).join("   ");
}

// ---------------------------------------------------------------- what becomes possible meanwhile

// A page with a notice (no worker yet, no model for photos) looks now and then whether it still holds,
// and takes over what has changed: the sentences and the choices, nothing that the user has done.
const FOLLOWED = ["workers", "hero", "notices", "choices"];
const LONGEST_WAIT = 30000; // milliseconds
let nextLook = 2000;

async function follow() {
  const answer = await fetch(form.action.replace(/submit$/, ""), { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const chosen = ["model", "servers"].map((name) => [name, id(name)?.selectedIndex > 0 ? id(name).value : null]);
  for (const name of FOLLOWED) {
    const news = page.getElementById(name);
    if (!news || news.isEqualNode(id(name))) continue;
    id(name).className = news.className;
    id(name).replaceChildren(...news.childNodes);
  }
  id("tab-draw").hidden = page.getElementById("tab-draw")?.hidden ?? true;
  for (const [name, value] of chosen) {
    if (value && id(name)?.querySelector(`option[value="${CSS.escape(value)}"]`)) id(name).value = value;
  }
  if (id("model-field")) id("model-field").hidden = !id("draw").hidden;
}

function followSoon() {
  if (!id("notices").childElementCount) return;
  setTimeout(async () => {
    // The balancer may be restarting; a hidden page can wait.
    if (!document.hidden) await follow().catch(() => {});
    nextLook = Math.min(nextLook * 1.5, LONGEST_WAIT);
    followSoon();
  }, nextLook);
}
followSoon();
