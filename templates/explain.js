// Which parts of a picture an answer depends on, found with the help of the fleet: the picture is sent
// repeatedly with one part covered each time, and the label's loss of confidence is shown as each
// answer arrives (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks").

import { inParallel, make, say, setText, shape, t } from "./dom.js";
import { send } from "./send.js";
import { decoded } from "./shrink.js";
import { frame } from "./view.js";

/** @typedef {import("./result.js").Entry} Entry */

const PARTS = 8;
/** Requests in flight: enough to keep several workers busy without being a burden for other visitors. */
const WIDTH = 6;
/** Guesses to request: a label that is not among them counts as having lost all its confidence. */
const TOP = 20;
const SIDE = 224;
/** Side of a digit's picture: the size at which the worker looks at it. */
const DIGIT_SIDE = 256;

/**
 * The part of a picture that a model looks at: a photo's middle square, all of a digit's.
 * @param {HTMLImageElement} image @param {boolean} isDigit
 */
function canvasOf(image, isDigit) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const side = isDigit ? DIGIT_SIDE : SIDE;
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const ink = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  if (isDigit) {
    const scale = side / Math.max(width, height);
    ink.fillStyle = "#fff";
    ink.fillRect(0, 0, side, side);
    ink.drawImage(image, (side - width * scale) / 2, (side - height * scale) / 2, width * scale, height * scale);
  } else {
    // The shorter side becomes 232, of which the middle 224 are kept.
    const cut = (Math.min(width, height) * SIDE) / 232;
    ink.drawImage(image, (width - cut) / 2, (height - cut) / 2, cut, cut, 0, 0, side, side);
  }
  return { canvas, ink };
}

/** Shows what the model sees of a photo, beside the whole picture. @param {Entry} entry @param {HTMLElement} more */
export async function view(entry, more) {
  if (typeof entry.picture === "string" || entry.prediction.model === "mnist") return;
  const image = await decoded(entry.picture);
  // If next to nothing is cut off, the whole picture shows it.
  if (!image || Math.abs(image.naturalWidth - image.naturalHeight) < 16) return;
  frame(canvasOf(image, false).canvas, t("saw"), more);
}

/** @param {Entry} entry @param {HTMLElement} more */
export async function explain(entry, more) {
  if (typeof entry.picture === "string") return;
  const image = await decoded(entry.picture);
  if (!image) return;
  const isDigit = entry.prediction.model === "mnist";
  const { canvas, ink } = canvasOf(image, isDigit);
  const side = canvas.width;
  const part = side / PARTS;
  const ground = isDigit ? groundOf(ink, side) : "#7f7f7f";
  const original = ink.getImageData(0, 0, side, side);
  const picture = make("img", { alt: "", src: canvas.toDataURL("image/png") });
  const map = /** @type {SVGElement} */ (shape("svg", { viewBox: `0 0 ${PARTS} ${PARTS}`, "aria-hidden": "true" }));
  const words = make("figcaption", { className: "quiet" });
  const figure = make("figure", { className: "map", id: "map" }, make("div", {}, picture, map), words);
  document.getElementById("map")?.remove();
  more.prepend(figure);
  const all = PARTS * PARTS;
  /** @type {Map<string, number>} */
  const workers = new Map();
  let done = 0;
  await inParallel(Array.from({ length: all }, (_, index) => index), WIDTH, async (index) => {
    if (!figure.isConnected) return;
    const [x, y] = [index % PARTS, Math.floor(index / PARTS)];
    // Drawn and read in one go, because all parts share the canvas.
    ink.putImageData(original, 0, 0);
    ink.fillStyle = ground;
    ink.fillRect(x * part, y * part, part, part);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, isDigit ? "image/png" : "image/jpeg", 0.95));
    const reply = await send(blob, { model: entry.prediction.model, topK: isDigit ? 10 : TOP, servers: entry.options?.servers });
    done += 1;
    setText(words, t("explaining", { done, all }));
    if (!reply) return;
    const found = reply.prediction?.top_k.find((guess) => guess.index === entry.prediction.top_k[0].index);
    // A digit that is no longer found counts as lost, too.
    const left = reply.prediction ? found?.confidence ?? 0 : reply.status === 422 ? 0 : NaN;
    if (Number.isNaN(left)) return;
    const worker = reply.prediction?.endpoint;
    if (worker) workers.set(worker, (workers.get(worker) ?? 0) + 1);
    const loss = Math.max(0, entry.prediction.confidence - left) / entry.prediction.confidence;
    map.append(shape("rect", { x, y, width: 1, height: 1, "fill-opacity": (0.75 * (1 - loss)).toFixed(3) }));
  });
  const names = [...workers].sort().map(([name, count]) => `${name} (${count})`).join(", ");
  const sentence = t("explained", { label: entry.prediction.label, all, workers: names });
  setText(words, sentence);
  if (figure.isConnected) say(sentence);
}

/** The colour at the edge of a digit's picture. @param {CanvasRenderingContext2D} ink @param {number} side */
function groundOf(ink, side) {
  const { data } = ink.getImageData(0, 0, side, side);
  const at = (/** @type {number} */ x, /** @type {number} */ y) => (y * side + x) * 4;
  const edge = [at(2, 2), at(side - 3, 2), at(2, side - 3), at(side - 3, side - 3)];
  const middle = (/** @type {number} */ channel) => edge.map((place) => data[place + channel]).sort((a, b) => a - b)[1];
  return `rgb(${middle(0)} ${middle(1)} ${middle(2)})`;
}
