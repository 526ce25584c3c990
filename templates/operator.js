// The operator's view of the fleet, kept up to date in place: nothing is loaded again, no focus and
// no place on the page is lost, and only the endpoints of one page are shown at a time.

import { id, inMs, percent, say, setText, shape, t } from "./dom.js";

/**
 * @typedef {{name: string, address: string, state: string, reason: string | null, seconds_in_state: number,
 *   readmitted_in_seconds: number | null, joined_seconds_ago: number | null, is_drained: boolean,
 *   probe: {seconds_ago: number, fault: string | null} | null, in_flight: number,
 *   in_flight_limit: number | null, weight: number, requests_per_second: number,
 *   failed: number, p50_ms: number | null, p99_ms: number | null, share: number | null,
 *   expected_share: number | null, models: {name: string, version: string, state: string}[],
 *   history?: {rate: number[], p99_ms: number[]}}} Endpoint
 * @typedef {{policy: string, ready: boolean, draining: boolean, panic_mode: boolean, models: string[],
 *   active_requests: number, waiting_requests: number, retries: number, connections: number,
 *   outcomes: Record<string, number>, endpoints: Endpoint[],
 *   elasticity: {workers: number, min: number, max: number, reason: string | null} | null}} Fleet
 */

const PERIOD = 1000;
/** Curves get a new point only every few seconds. */
const HISTORY_EVERY = 3;
const ON_A_PAGE = 50;
/** @type {Map<string, any>} */
const rows = new Map();
const body = /** @type {HTMLElement} */ (document.querySelector("#endpoints tbody"));
const pattern = body.querySelector("tr[data-endpoint]")?.cloneNode(true);
let page = 0;
let turn = 0;
/** @type {Fleet | null} */
let shown = null;
for (const row of body.querySelectorAll("tr[data-endpoint]")) rows.set(/** @type {HTMLElement} */ (row).dataset.endpoint ?? "", row);

/** @param {Fleet} fleet */
function show(fleet) {
  shown = fleet;
  // Where none was there at first, the page as the balancer makes it has the pattern of a row.
  if (!pattern && fleet.endpoints.length > 0) return location.reload();
  showFigures(fleet);
  const wanted = id("find").value.trim().toLowerCase();
  const found = fleet.endpoints.filter((one) => `${one.name} ${one.address} ${one.state}`.toLowerCase().includes(wanted));
  const pages = Math.max(1, Math.ceil(found.length / ON_A_PAGE));
  page = Math.min(page, pages - 1);
  id("pages").hidden = pages < 2;
  id("find-field").hidden = fleet.endpoints.length < 2;
  setText(id("page"), t("page", { n: page + 1, all: pages }));
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
}

/** @param {Endpoint} endpoint */
function newRow(endpoint) {
  const row = /** @type {any} */ (pattern?.cloneNode(true));
  const old = row.dataset.endpoint;
  row.dataset.endpoint = endpoint.name;
  row.querySelector("th").firstChild.textContent = endpoint.name;
  setText(row.querySelector("th small"), endpoint.name === endpoint.address ? "" : endpoint.address);
  for (const button of row.querySelectorAll("button[aria-label]")) {
    button.setAttribute("aria-label", button.getAttribute("aria-label").replace(old, endpoint.name));
  }
  for (const name of row.querySelectorAll("button .hidden")) setText(name, ` ${endpoint.name}`);
  rows.set(endpoint.name, row);
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
    const points = values.map((value, at) => `${(values.length < 2 ? 100 : (at * 100) / (values.length - 1)).toFixed(1)},${19 - (value / most) * 18}`);
    svg.append(shape("polyline", { class: name, points: points.join(" ") }));
  }
  const label = [t("rate_curve", { n: Math.max(...rate, 0).toFixed(1) }), t("p99_curve", { n: Math.max(...p99_ms, 0).toFixed(1) })].join("; ");
  svg.setAttribute("aria-label", label);
  cell.replaceChildren(svg);
}

/** @param {Fleet} fleet */
function showFigures(fleet) {
  const { outcomes } = fleet;
  const rate = fleet.endpoints.reduce((sum, one) => sum + one.requests_per_second, 0);
  const failed = outcomes.upstream_failed + outcomes.unavailable + outcomes.deadline;
  const e = fleet.elasticity;
  const elasticity = e ? `${e.workers} (${e.min}..${e.max}): ${e.reason ?? "–"}` : "–";
  const figures = { rate: rate.toFixed(1), shed: outcomes.shed, failed, models: fleet.models.join(", ") || "–", elasticity };
  for (const cell of document.querySelectorAll("[data-figure]")) {
    const name = /** @type {HTMLElement} */ (cell).dataset.figure ?? "";
    setText(cell, String({ .../** @type {any} */ (fleet), ...figures }[name]));
  }
  const pill = id("pill");
  const state = fleet.draining ? "draining" : fleet.panic_mode ? "panic" : fleet.ready ? "ready" : "notReady";
  setText(pill, pill.dataset[state]);
  pill.classList.toggle("pill-bad", state !== "ready");
  if (document.activeElement !== id("policy")) id("policy").value = fleet.policy;
}

/** @param {string} address @param {RequestInit} [how] */
async function ask(address, how = {}) {
  const answer = await fetch(address, { cache: "no-store", headers: { accept: "application/json" }, ...how });
  const fleet = await answer.json();
  if (!answer.ok) throw new Error(fleet.error);
  return fleet;
}

async function look() {
  if (!document.hidden) {
    try {
      show(await ask(turn++ % HISTORY_EVERY === 0 ? "fleet.json?history=1" : "fleet.json"));
      id("stale").hidden = true;
    } catch {
      setText(id("stale"), t("stale"));
      id("stale").hidden = false;
    }
  }
  setTimeout(look, PERIOD);
}

document.addEventListener("submit", async (event) => {
  const form = /** @type {HTMLFormElement} */ (event.target);
  event.preventDefault();
  const action = form.id === "policy-form" ? `fleet/policy?name=${id("policy").value}` : form.getAttribute("action") ?? "";
  try {
    show(await ask(action, { method: "POST" }));
    const row = /** @type {HTMLElement | null} */ (form.closest("[data-endpoint]"));
    say(t("confirm", { verb: action.split("/").pop() ?? "", name: row?.dataset.endpoint ?? "" }));
  } catch (error) {
    setText(id("stale"), error instanceof Error ? error.message : String(error));
    id("stale").hidden = false;
  }
});
id("find").addEventListener("input", () => shown && show(shown));
for (const [name, step] of /** @type {[string, number][]} */ ([["previous", -1], ["next", 1]])) {
  id(name).addEventListener("click", () => {
    page = Math.max(0, page + step);
    if (shown) show(shown);
  });
}
look();
