// The table of the operator's view: one row per endpoint that matches the search, one page of rows at a
// time. Rows stay the same elements while the fleet changes, so neither focus nor position is lost.

import { id, inMs, percent, setText, shape, t } from "./dom.js";

/**
 * @typedef {{name: string, address: string, state: string, reason: string | null, seconds_in_state: number,
 *   readmitted_in_seconds: number | null, joined_seconds_ago: number | null, is_drained: boolean,
 *   probe: {seconds_ago: number, fault: string | null} | null, in_flight: number,
 *   in_flight_limit: number | null, weight: number, requests_per_second: number,
 *   failed: number, p50_ms: number | null, p99_ms: number | null, share: number | null,
 *   expected_share: number | null, models: {name: string, version: string, state: string}[],
 *   history?: {rate: number[], p99_ms: number[]}}} Endpoint
 */

const ON_A_PAGE = 50;
/** @type {Map<string, any>} */
const rows = new Map();
const body = /** @type {HTMLElement} */ (document.querySelector("#endpoints tbody"));
let page = 0;
/** @type {Endpoint[]} */
let all = [];
for (const row of body.querySelectorAll("tr")) rows.set(row.dataset.endpoint ?? "", row);

/** @param {Endpoint[]} endpoints */
export function showEndpoints(endpoints) {
  all = endpoints;
  const focused = document.activeElement;
  const wanted = id("find").value.trim().toLowerCase();
  const found = all.filter((one) => `${one.name} ${one.address} ${one.state} ${t(one.state)}`.toLowerCase().includes(wanted));
  const pages = Math.max(1, Math.ceil(found.length / ON_A_PAGE));
  page = Math.min(page, pages - 1);
  id("pages").hidden = pages < 2;
  id("find-field").hidden = all.length < 2;
  setText(id("page"), t("page", { n: page + 1, all: pages }));
  id("no-endpoint").hidden = found.length > 0;
  setText(id("no-endpoint"), all.length > 0 ? t("none_found", { text: wanted }) : t("no_endpoint"));
  const visible = found.slice(page * ON_A_PAGE, (page + 1) * ON_A_PAGE);
  const names = new Set(visible.map((one) => one.name));
  for (const [name, row] of rows) {
    if (names.has(name)) continue;
    row.remove();
    rows.delete(name);
  }
  visible.forEach((endpoint, at) => {
    const row = rows.get(endpoint.name) ?? newRow(endpoint);
    if (body.children[at] !== row) body.insertBefore(row, body.children[at] ?? null);
    showRow(row, endpoint);
  });
  // A row loses the focus when it is moved or removed.
  if (focused instanceof HTMLElement && focused !== document.activeElement) {
    (focused.isConnected ? focused : id("find")).focus({ preventScroll: true });
  }
}

/** @param {Endpoint} endpoint */
function newRow({ name, address }) {
  const row = id("pattern").content.querySelector("tr").cloneNode(true);
  row.dataset.endpoint = name;
  row.querySelector("th").prepend(name);
  setText(row.querySelector("th small"), name === address ? "" : address);
  for (const button of row.querySelectorAll("button[aria-label]")) {
    button.setAttribute("aria-label", `${button.getAttribute("aria-label").trim()} ${name}`);
  }
  for (const words of row.querySelectorAll("button .hidden")) setText(words, ` ${name}`);
  rows.set(name, row);
  return row;
}

/** @param {any} row @param {Endpoint} one */
function showRow(row, one) {
  row.dataset.state = one.state;
  const cell = (/** @type {string} */ name) => row.querySelector(`[data-cell=${name}]`);
  const set = (/** @type {string} */ name, /** @type {string} */ text) => setText(cell(name), text);
  const back = one.readmitted_in_seconds === null ? "" : t("readmitted", { n: one.readmitted_in_seconds });
  set("state", `${t(one.state)} ${t("for", { time: duration(one.seconds_in_state) })}`);
  const joined = one.joined_seconds_ago === null ? "" : t("joined", { time: duration(one.joined_seconds_ago) });
  set("reason", [one.reason, back, joined].filter(Boolean).join("; "));
  set("probe", one.probe ? one.probe.fault ?? t("ok") : t("never"));
  set("probed", one.probe ? t("seconds_ago", { n: Math.round(one.probe.seconds_ago) }) : "");
  set("in_flight", one.in_flight_limit === null ? `${one.in_flight}` : `${one.in_flight} / ${one.in_flight_limit}`);
  set("rate", one.requests_per_second.toFixed(1));
  set("failed", String(one.failed));
  set("latency", one.p50_ms === null || one.p99_ms === null ? "–" : `${inMs(one.p50_ms).replace(/ ms$/, "")} / ${inMs(one.p99_ms)}`);
  set("share", one.share === null ? "–" : percent(one.share));
  set("expected", one.expected_share === null ? "" : `(${percent(one.expected_share)})`);
  set("weight", String(one.weight));
  set("models", one.models.map((model) => `${model.name}/${model.version}${model.state === "READY" ? "" : ` (${model.state})`}`).join(", "));
  const drain = row.querySelector("[data-verb=drain]");
  const verb = one.is_drained ? "undrain" : "drain";
  if (drain.firstChild.textContent !== t(verb)) drain.firstChild.textContent = t(verb);
  const base = `fleet/${encodeURIComponent(one.name)}`;
  drain.form.setAttribute("action", `${base}/${verb}`);
  row.querySelector("[data-verb=kill]")?.form.setAttribute("action", `${base}/kill`);
  row.querySelector("[data-verb=less]").form.setAttribute("action", `${base}/weight?value=${Math.max(0, one.weight - 1)}`);
  row.querySelector("[data-verb=more]").form.setAttribute("action", `${base}/weight?value=${one.weight + 1}`);
  if (one.history) showCurves(cell("history"), one.history);
}

/** @param {number} seconds */
function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/** @param {Element} cell @param {{rate: number[], p99_ms: number[]}} history */
function showCurves(cell, { rate, p99_ms }) {
  const svg = shape("svg", { class: "curve", viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img" });
  for (const [name, values] of /** @type {[string, number[]][]} */ ([["rate", rate], ["p99", p99_ms]])) {
    const most = Math.max(...values, 1e-9);
    const points = values.map((value, at) => `${(values.length < 2 ? 100 : (at * 100) / (values.length - 1)).toFixed(1)},${(19 - (value / most) * 18).toFixed(1)}`);
    svg.append(shape("polyline", { class: name, points: points.join(" ") }));
  }
  const label = [t("rate_curve", { n: Math.max(...rate, 0).toFixed(1) }), t("p99_curve", { n: Math.max(...p99_ms, 0).toFixed(1) })].join("; ");
  svg.setAttribute("aria-label", label);
  cell.replaceChildren(svg);
}

id("find").addEventListener("input", () => showEndpoints(all));
for (const [name, step] of /** @type {[string, number][]} */ ([["previous", -1], ["next", 1]])) {
  id(name).addEventListener("click", () => {
    page = Math.max(0, page + step);
    showEndpoints(all);
  });
}
