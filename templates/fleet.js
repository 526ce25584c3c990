// The fleet on the public page: which workers there are, which one answers, and whether requests
// are distributed as the policy promises.

import { id, make, percent, setText, shape, t } from "./dom.js";

/** @typedef {import("./status.js").Status} Status @typedef {import("./status.js").Endpoint} Endpoint */

/** Maximum number of workers in the picture of the fleet. */
const MOST_BOXES = 6;
/** How many requests each worker had answered when the page was opened. @type {Map<string, number>} */
const before = new Map();
/** @type {Map<string, any>} */
const rows = new Map();
for (const row of document.querySelectorAll("#workers li")) rows.set(/** @type {HTMLElement} */ (row).dataset.name ?? "", row);
let picked = "";

/** Highlights the worker that has just answered this page. @param {string | null} name */
export function pick(name) {
  picked = name ?? "";
  for (const [other, row] of rows) row.classList.toggle("picked", other === picked);
  for (const box of document.querySelectorAll(".flow [data-name]")) {
    box.classList.toggle("picked", /** @type {SVGElement} */ (box).dataset.name === picked);
  }
}

/** @param {Status} status */
export function showFleet(status) {
  showPill(status);
  if (!status.endpoints || !id("fleet")) return;
  id("fleet").hidden = status.endpoints.length === 0;
  setText(id("fleet-lead"), t("fleet_lead", { policy: status.policy ?? "" }));
  const known = new Set(status.endpoints.map((endpoint) => endpoint.name));
  for (const [name, row] of rows) {
    if (known.has(name)) continue;
    row.remove();
    rows.delete(name);
    before.delete(name);
  }
  const answers = status.endpoints.map((endpoint) => {
    const start = before.get(endpoint.name);
    // A worker that came later, or a balancer that was restarted, starts from zero.
    if (start === undefined || start > endpoint.answered) before.set(endpoint.name, endpoint.answered);
    return endpoint.answered - (before.get(endpoint.name) ?? 0);
  });
  const whole = answers.reduce((sum, count) => sum + count, 0);
  status.endpoints.forEach((endpoint, at) => showWorker(endpoint, answers[at], whole));
  const more = (status.workers ?? 0) - status.endpoints.length;
  if (more > 0) setText(id("fleet-lead"), `${id("fleet-lead").textContent} ${t("fleet_more", { n: more })}`);
  drawFlow(status.endpoints);
}

/** @param {Status} status */
function showPill({ ready, available, workers }) {
  const words = !ready ? t("no_worker")
    : workers === undefined || available === undefined ? t("ready")
    : available < workers ? t("some_workers", { n: available, all: workers })
    : workers === 1 ? t("worker") : t("workers", { n: workers });
  setText(id("pill"), words);
  id("pill").classList.toggle("pill-bad", !ready);
  id("pill").classList.toggle("pill-some", ready && available !== undefined && available < (workers ?? 0));
}

/** Shows that the balancer no longer responds, so what is shown is stale. */
export function showLost() {
  setText(id("pill"), t("lost"));
  id("pill").classList.add("pill-bad");
}

/** @param {Endpoint} endpoint @param {number} answers @param {number} whole */
function showWorker(endpoint, answers, whole) {
  let row = rows.get(endpoint.name);
  if (!row) {
    const bar = shape("svg", { class: "share", "aria-hidden": "true" });
    bar.append(shape("rect", { class: "bar-fill", height: "100%", rx: 3 }), shape("line", { y1: "0", y2: "100%" }));
    row = make("li", {}, make("b", { textContent: endpoint.name }), make("span", { className: "state" }), bar, make("small", {}));
    rows.set(endpoint.name, row);
    id("workers").append(row);
  }
  const isAvailable = endpoint.state === "available";
  const state = isAvailable && endpoint.in_flight ? t("in_flight", { n: endpoint.in_flight }) : t(endpoint.state);
  setText(row.querySelector(".state"), state);
  row.dataset.state = endpoint.state;
  row.classList.toggle("busy", endpoint.in_flight > 0);
  row.querySelector("rect").setAttribute("width", `${whole ? (answers / whole) * 100 : 0}%`);
  const line = row.querySelector("line");
  const share = endpoint.share;
  line.classList.toggle("none", !share);
  if (share) {
    line.setAttribute("x1", `${share * 100}%`);
    line.setAttribute("x2", `${share * 100}%`);
  }
  const expected = share === null ? "" : ` · ${t("expected", { percent: percent(share) })}`;
  setText(row.querySelector("small"), t("answers", { n: answers }) + expected);
}

/** Draws the path of a request, with the workers of the fleet. @param {Endpoint[]} endpoints */
function drawFlow(endpoints) {
  const flow = document.querySelector(".flow");
  if (!flow) return;
  const shown = endpoints.slice(0, MOST_BOXES);
  const key = shown.map(({ name, state }) => `${name} ${state}`).join();
  if (/** @type {HTMLElement} */ (/** @type {unknown} */ (flow)).dataset.key === key) return;
  flow.setAttribute("data-key", key);
  for (const old of flow.querySelectorAll(':scope > path:first-child, rect[x="200"]')) old.remove();
  const gap = 120 / Math.max(shown.length, 1);
  const middle = (/** @type {number} */ at) => gap * (at + 0.5);
  const lines = shown.map((_, at) => `M152 60 L200 ${middle(at)}`).join(" ");
  flow.prepend(shape("path", { class: "ways", d: `M58 60 H108 ${lines}` }));
  shown.forEach(({ name, state }, at) => {
    const height = Math.min(28, gap - 4);
    flow.append(shape("rect", { x: 200, y: middle(at) - height / 2, width: 46, height, rx: Math.min(7, height / 3), "data-name": name, class: state === "available" ? "" : "out" }));
  });
  pick(picked);
}
