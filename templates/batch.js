// Several pictures at once: sent concurrently, so that the balancer spreads them over the workers,
// and shown as a table that can be saved as CSV.

import { id, inMs, inParallel, make, percent, say, setText, t } from "./dom.js";
import { showOther } from "./result.js";
import { headline, send } from "./send.js";
import { fit } from "./shrink.js";

/** Number of concurrent requests. */
const WIDTH = 4;

/** One row of CSV (RFC 4180); text that a spreadsheet would take for a formula gets an apostrophe in front. @param {(string | number)[]} cells */
export function csvRow(cells) {
  const cell = (/** @type {string | number} */ value) => {
    const text = /^[=+\-@\t\r]/.test(String(value)) && typeof value === "string" ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return `${cells.map(cell).join(",")}\r\n`;
}

/**
 * @param {File[]} files @param {import("./send.js").Options} options @param {number} limit
 * @param {(entry: import("./result.js").Entry) => void} remember
 */
export async function classifyAll(files, options, limit, remember) {
  const head = ["file", "label", "confidence", "worker_name", "time"].map((key) => make("th", { scope: "col", textContent: t(key) }));
  const body = make("tbody");
  const words = make("p", { className: "quiet", id: "batch-text" });
  const table = make("table", { className: "batch", id: "batch" }, make("thead", {}, make("tr", {}, ...head)), body);
  const box = make("div", { className: "filled" }, words, make("div", { className: "scrolls", tabIndex: 0, role: "group", ariaLabel: t("file") }, table));
  const rows = files.map((file) => {
    const name = make("th", { scope: "row" }, make("img", { src: URL.createObjectURL(file), alt: "", loading: "lazy" }), file.name);
    const row = make("tr", {}, name, ...Array.from({ length: 4 }, () => make("td")));
    body.append(row);
    return row;
  });
  showOther(box);
  let done = 0;
  const csv = [csvRow(["file", "label", "confidence", "model", "version", "worker", "milliseconds", "error"])];
  const lines = new Array(files.length);
  await inParallel(files, WIDTH, async (file, at) => {
    const cells = rows[at].querySelectorAll("td");
    const picture = options.signal?.aborted ? null : (await fit(file, limit)).picture;
    const reply = picture && await send(picture, { ...options, onProgress: undefined });
    if (!picture || !reply) return setText(cells[0], t("cancelled"));
    done += 1;
    setText(words, t("batch", { done, all: files.length }));
    options.onProgress?.(done / files.length);
    const { prediction, milliseconds } = reply;
    if (!prediction) {
      setText(cells[0], headline(reply));
      lines[at] = csvRow([file.name, "", "", "", "", "", milliseconds.toFixed(1), reply.error || headline(reply)]);
      return;
    }
    [prediction.label, percent(prediction.confidence), prediction.endpoint ?? "", inMs(milliseconds)].forEach((text, cell) => setText(cells[cell], text));
    lines[at] = csvRow([file.name, prediction.label, prediction.confidence, prediction.model, prediction.version, prediction.endpoint ?? "", milliseconds.toFixed(1), ""]);
    remember({ picture, url: URL.createObjectURL(picture), name: file.name, prediction, milliseconds, model: options.model ?? "", options });
  });
  const link = id("csv");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([...csv, ...lines.filter(Boolean)], { type: "text/csv" }));
  link.hidden = false;
  say(words.textContent ?? "");
}
