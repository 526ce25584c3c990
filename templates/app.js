// What scripts add to the page: pictures from anywhere, a drawing that is read while it is drawn, and a
// live view of the fleet. Without scripts the same form is posted and a result page comes back.

import { showChoices } from "./choices.js";
import { id, reveal, root, setText, size, t } from "./dom.js";
import { useDrawing } from "./drawing.js";
import { pick, showFleet, showLost } from "./fleet.js";
import { during } from "./progress.js";
import { remember } from "./recent.js";
import { showAnswer, showFailure, showOther } from "./result.js";
import { headline, send } from "./send.js";
import { sources } from "./sources.js";
import { watch } from "./status.js";

/** @typedef {{picture: Blob | string, url: string, name: string}} Chosen @typedef {import("./result.js").Entry} Entry */

const form = id("form");
const limit = Number(form.dataset.maxBytes);
const query = new URLSearchParams(location.search);
let mode = "upload";
/** What "Classify" sends. @type {Chosen | null} */
let chosen = null;

const setMode = (/** @type {string} */ next) => {
  mode = next;
  for (const pane of ["upload", "draw", "iris"]) id(pane).hidden = pane !== mode;
  for (const tab of document.querySelectorAll("[data-mode]")) {
    tab.setAttribute("aria-pressed", String(/** @type {HTMLElement} */ (tab).dataset.mode === mode));
  }
  id("fields").hidden = mode === "iris";
  id("go").hidden = mode === "iris";
  id("model-field").hidden = mode !== "upload" || id("model").options.length < 2;
  if (mode !== "upload") camera?.stop();
  if (mode === "iris") showIris();
};

const options = () => ({ servers: id("servers").value, model: mode === "draw" ? "mnist" : id("model").value });

/** @param {Chosen} next @param {string} [note] */
function preview(next, note = "") {
  chosen = next;
  const image = id("preview");
  image.src = next.url;
  image.alt = t("chosen", { name: next.name });
  image.hidden = !next.url;
  image.onload = () => image.classList.toggle("tiny", image.naturalWidth < 100);
  image.onerror = () => {
    image.hidden = true;
    id("upload").classList.remove("has-preview");
  };
  id("upload").classList.toggle("has-preview", Boolean(next.url));
  id("shrunk").hidden = !note;
  setText(id("shrunk"), note);
}

/** @param {File[]} files */
async function choose(files) {
  if (files.length === 0) return;
  camera?.stop();
  setMode("upload");
  if (files.length > 1) return several(files);
  // Making a large picture fit takes a moment: it can be cancelled, and a later choice supersedes it.
  await during(async (signal, onProgress) => {
    const { fit } = await import("./shrink.js");
    const { picture, note } = await fit(files[0], limit);
    if (signal.aborted) return;
    preview({ picture, url: URL.createObjectURL(picture), name: files[0].name || t("pasted") }, note);
    if (picture.size <= limit) await ask(signal, onProgress);
    else showFailure(t("too_large"), t("too_large_text", { size: size(picture.size), limit: form.dataset.max }));
  });
}

/** Sends the chosen picture, and shows the progress. */
const classify = () => during(ask);

/** @param {AbortSignal} signal @param {(share: number) => void} onProgress */
async function ask(signal, onProgress) {
  if (!chosen) return;
  const { picture, url, name } = chosen;
  const asked = options();
  const reply = await send(picture, { ...asked, showsInput: true, signal, onProgress });
  if (!reply) return;
  if (reply.prediction) {
    const { prediction, milliseconds } = reply;
    keep({ picture, url, name, prediction, milliseconds, model: asked.model, options: asked });
  } else {
    showFailure(headline(reply), reply.error || t("status", { status: reply.status }), reply.status === 415 ? null : classify);
  }
}

/** @param {Entry} entry @param {boolean} [isQuiet] */
function keep(entry, isQuiet) {
  showAnswer(entry, isQuiet);
  pick(entry.prediction.endpoint);
  remember(entry, recall);
}

/** Shows a picture together with its answer again; "Classify" then sends this picture. @param {Entry} entry */
function recall(entry) {
  setMode("upload");
  preview(entry);
  showAnswer(entry);
  pick(entry.prediction.endpoint);
}

/** @param {File[]} files */
function several(files) {
  return during(async (signal, onProgress) => {
    const { classifyAll } = await import("./batch.js");
    await classifyAll(files, { ...options(), signal, onProgress }, limit, (entry) => remember(entry, recall));
  });
}

const drawing = useDrawing({ options, isOpen: () => mode === "draw", keep, fail: (title, text) => showFailure(title, text, null, true) });

/** @param {Blob} frame @returns {Promise<boolean>} Whether the fleet judged it: a prediction, or a 422. */
async function look(frame) {
  const asked = options();
  const reply = await send(frame, { ...asked, showsInput: true });
  // The camera may have been stopped meanwhile, and something else may be shown.
  if (!reply || !camera?.isOn) return false;
  const { prediction, milliseconds } = reply;
  if (!prediction) {
    showFailure(headline(reply), reply.error, null, true);
    return reply.status === 422;
  }
  showAnswer({ picture: frame, url: "", name: t("photo"), prediction, milliseconds, model: asked.model, options: asked, isLive: true }, true);
  pick(prediction.endpoint);
  return true;
}

// Rarely used parts are loaded on first use.
/** @type {import("./camera.js").Camera | null} */
let camera = null;
id("camera").hidden = !navigator.mediaDevices?.getUserMedia;
id("camera").addEventListener("click", async () => {
  if (!camera) {
    const { Camera } = await import("./camera.js");
    camera ??= new Camera({ classify: look, keep: (picture) => choose([picture]), fail: showFailure });
  }
  camera.toggle();
});

/** @type {Promise<() => Promise<void>> | null} */
let iris = null;
function showIris() {
  iris ??= import("./iris.js").then(({ irisPane }) =>
    irisPane(id("iris"), { show: (node) => mode === "iris" && showOther(node, true), fail: showFailure, answered: pick }));
  iris.then((update) => update());
}

for (const tab of document.querySelectorAll("[data-mode]")) {
  tab.addEventListener("click", () => setMode(/** @type {HTMLElement} */ (tab).dataset.mode ?? "upload"));
}
form.addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  if (mode === "draw") {
    if (drawing.isBlank) showFailure(t("nothing_drawn"), t("nothing_drawn_text"));
    else drawing.read().then(() => reveal(id("result")));
  } else if (chosen) classify();
  else id("image").click();
});
sources({ files: choose, address: (address) => {
  setMode("upload");
  preview({ picture: address, url: "", name: address });
  return classify();
} });
for (const button of document.querySelectorAll("[data-sample]")) {
  const image = /** @type {HTMLImageElement} */ (button.firstElementChild);
  image.src = image.dataset.src || "";
  button.addEventListener("click", async () => {
    const { sample } = await import("./samples.js");
    const file = await sample(/** @type {HTMLElement} */ (button));
    if (file) choose([file]);
  });
}

watch((status) => {
  showFleet(status);
  showChoices(status, mode);
}, showLost);

id("image").required = false;
id("image").multiple = true;
setText(id("curl"), id("curl").textContent.replace(/\S+$/, new URL("submit", root).href));
if (query.get("mode") === "draw" || query.get("mode") === "iris") setMode(query.get("mode") ?? "");
const address = query.get("image");
if (address) id("address").value = address;
