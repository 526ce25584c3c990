// The answer: the picture that was sent and its result are shown together, so that no result is
// mistaken for that of another picture.

import { clone, id, inMs, make, percent, reveal, say, shape, t } from "./dom.js";
import { tools } from "./tools.js";
import { showInput } from "./view.js";

/**
 * @typedef {import("./send.js").Prediction} Prediction
 * @typedef {{picture: Blob | string, url: string, name: string, prediction: Prediction, milliseconds: number,
 *   model: string, key?: string, options?: import("./send.js").Options, isLive?: boolean}} Entry
 */

/** An answer below this confidence is shown as a guess. */
const SURE = 0.5;

/** @param {Node} node @param {boolean} isQuiet Whether the page keeps its scroll position. */
function show(node, isQuiet) {
  document.querySelector("#answer .empty, #answer .filled")?.remove();
  const result = id("result");
  const hadFocus = result.contains(document.activeElement);
  result.hidden = false;
  result.replaceChildren(node);
  if (hadFocus) (result.querySelector("#retry, [tabindex]") ?? id("go")).focus({ preventScroll: true });
  if (!isQuiet) reveal(result.querySelector(".headline, .failed, table") ?? result);
}

/** What was announced last, so that quiet updates are announced only once. */
let said = "";

/** @param {string} what @param {string} sentence @param {boolean} isQuiet */
function tell(what, sentence, isQuiet) {
  if (isQuiet && what === said) return;
  said = what;
  say(sentence);
}

/** Labels are English, whatever the language of the page; single characters have no language. @param {string} label */
export const tongue = (label) => (label.length > 1 ? "en" : "");

/** @param {number} confidence */
export const kicker = (confidence) => t(confidence < SURE ? "not_sure" : "looks_like");

/**
 * @param {string} title @param {string} text @param {(() => void) | null} [again] What "Try again" does.
 * @param {boolean} [isQuiet]
 */
export function showFailure(title, text, again = null, isQuiet = false) {
  const box = make("div", { className: "failed", id: "failure" }, make("strong", { textContent: title }), make("span", { textContent: text }));
  if (again) {
    const button = make("button", { type: "button", className: "small", id: "retry", textContent: t("retry") });
    button.addEventListener("click", again);
    box.append(button);
  }
  show(box, isQuiet);
  tell(title, `${title}. ${text}`, isQuiet);
}

/** @param {Node} node @param {boolean} [isQuiet] */
export function showOther(node, isQuiet = false) {
  show(node, isQuiet);
}

/** @param {Entry} entry @param {boolean} [isQuiet] */
export function showAnswer(entry, isQuiet = false) {
  const { prediction, milliseconds } = entry;
  const answer = clone("answer-template");
  const part = (/** @type {string} */ selector) => /** @type {any} */ (answer.querySelector(selector));
  const thumb = part(".thumb");
  thumb.hidden = !entry.url;
  if (entry.url) thumb.src = entry.url;
  part(".kicker").textContent = kicker(prediction.confidence);
  Object.assign(part(".label"), { textContent: prediction.label, lang: tongue(prediction.label) });
  part(".label").classList.toggle("label-digit", prediction.label.length === 1);
  const fills = prediction.top_k.slice(0, 5).map((guess) => {
    const row = /** @type {any} */ (clone("bar-template"));
    Object.assign(row.querySelector(".bar-name"), { textContent: guess.label, lang: tongue(guess.label) });
    row.querySelector(".bar-value").textContent = percent(guess.confidence);
    const fill = row.querySelector(".bar-fill");
    fill.setAttribute("width", isQuiet ? `${guess.confidence * 100}%` : "0");
    part(".bars").append(row);
    return [fill, guess.confidence];
  });
  showTimes(part(".stack"), part(".legend"), prediction.timings_ms, milliseconds);
  for (const [name, value] of [
    [t("worker_name"), prediction.endpoint],
    [t("model"), `${prediction.model}, ${t("version")} ${prediction.version}`],
    [t("round_trip"), inMs(milliseconds)],
  ]) {
    if (value) part(".facts").append(make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })));
  }
  if (prediction.input) showInput(prediction.input, part(".more"));
  // Tools that are replaced with every frame of the camera could not be used.
  if (!entry.isLive) tools(part(".tools-row"), part(".more"), entry);
  show(answer, isQuiet);
  const sentence = t("spoken", { kicker: kicker(prediction.confidence), label: prediction.label, percent: percent(prediction.confidence) });
  tell(prediction.label, sentence, isQuiet);
  if (isQuiet) return;
  // In the next frame, so that the bars grow from zero.
  requestAnimationFrame(() => requestAnimationFrame(() => {
    for (const [fill, share] of fills) fill.setAttribute("width", `${share * 100}%`);
  }));
}

/**
 * One bar for the whole round trip: the worker's stages, and balancer and network as the rest.
 * @param {Element} stack @param {Element} legend @param {Record<string, number>} timings @param {number} milliseconds
 */
function showTimes(stack, legend, timings, milliseconds) {
  if (!timings) return;
  /** @type {[string, string, number][]} */
  const stages = [
    ["decode", t("decode"), timings.decode],
    ["preprocess", t("prepare"), timings.preprocess],
    ["queue", t("queue"), timings.queue],
    ["compute", t("compute"), timings.compute],
    ["network", t("network"), Math.max(milliseconds - timings.total, 0)],
  ];
  const whole = stages.reduce((sum, stage) => sum + stage[2], 0) || 1;
  let left = 0;
  for (const [name, words, value] of stages) {
    stack.append(shape("rect", { class: name, x: `${left}%`, width: `${(value / whole) * 100}%`, height: "100%" }));
    legend.append(make("li", { className: name, textContent: `${words} ${inMs(value)}` }));
    left += (value / whole) * 100;
  }
}
