// What can be chosen depends on the fleet: its models, and among how many workers to pick. Both follow
// the fleet while the page is open, and a choice is kept while it is available.

import { id, make, setText, t } from "./dom.js";

/** @typedef {import("./status.js").Status} Status */

const query = new URLSearchParams(location.search);

/**
 * @param {Status} status @param {string} mode
 */
export function showChoices({ ready, models, tables, default_model, workers = 0 }, mode) {
  const hasDigits = models.includes("mnist");
  id("notice-none").hidden = ready;
  id("notice-digits").hidden = !ready || models.includes("mobilenet_v2") || !hasDigits;
  for (const [tab, isThere] of [["draw", hasDigits], ["iris", tables.includes("iris_model")]]) {
    // The open pane stays.
    document.querySelector(`[data-mode=${tab}]`)?.toggleAttribute("hidden", !isThere && mode !== tab);
  }
  const isBoth = models.includes("mobilenet_v2") && hasDigits;
  offer(id("model"), isBoth ? ["auto", ...models] : models, (model) => t(`model_${model}`, { model }).replace(/^model_/, ""), "model");
  id("model-field").hidden = mode !== "upload" || models.length < 2;
  const counts = Array.from({ length: Math.max(workers - 1, 0) }, (_, at) => String(at + 1));
  const among = (/** @type {string} */ n) =>
    n === "" ? t("all_workers", { n: workers }) : n === "1" ? t("first_worker") : t("first_workers", { n });
  offer(id("servers"), ["", ...counts], among, "servers");
  id("servers-field").hidden = workers < 2;
  setText(id("default-model"), default_model ? t("without_model", { model: default_model }) : "");
}

/**
 * Makes `values` the options of `select`.
 * @param {HTMLSelectElement} select @param {string[]} values @param {(value: string) => string} words
 * @param {string} name Its name in the query of the page's address.
 */
function offer(select, values, words, name) {
  const kept = select.dataset.touched ? select.value : query.get(name) ?? values[0];
  const now = [...select.options].map((option) => option.value);
  if (now.join("\n") !== values.join("\n")) {
    select.replaceChildren(...values.map((value) => make("option", { value })));
  }
  for (const option of select.options) setText(option, words(option.value));
  if (values.includes(kept)) select.value = kept;
}

for (const name of ["model", "servers"]) {
  id(name).addEventListener("change", () => { id(name).dataset.touched = "1"; });
}
