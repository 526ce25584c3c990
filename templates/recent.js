// The last answers. Choosing one shows its picture and its answer again, together.

import { id, inMs, make, percent } from "./dom.js";
import { tongue } from "./result.js";

/** @typedef {import("./result.js").Entry} Entry */

const MOST = 12;
/** @type {Map<Element, Entry>} */
const entries = new Map();

/**
 * Adds an answer at the front; it replaces the first one if that has the same key.
 * @param {Entry} entry @param {(entry: Entry) => void} choose
 */
export function remember(entry, choose) {
  const list = id("recent-list");
  const first = list.firstElementChild;
  if (first && entry.key && entries.get(first)?.key === entry.key) forget(first);
  const { label, confidence, endpoint } = entry.prediction;
  const details = [percent(confidence), inMs(entry.milliseconds), endpoint].filter(Boolean).join(" · ");
  const button = make("button", { type: "button" },
    make("img", { src: entry.url, alt: "" }), make("b", { textContent: label, lang: tongue(label) }), make("small", { textContent: details }));
  button.addEventListener("click", () => choose(entry));
  const row = make("li", {}, button);
  entries.set(row, entry);
  list.prepend(row);
  if (list.children.length > MOST) forget(/** @type {Element} */ (list.lastElementChild));
  id("recent").hidden = false;
}

/** @param {Element} row */
function forget(row) {
  const url = entries.get(row)?.url;
  entries.delete(row);
  row.remove();
  // The picture may have been sent twice, or be on display now.
  if (url && !document.querySelector(`img[src="${url}"]`)) URL.revokeObjectURL(url);
}
