// The operator's view of the fleet, updated in place without reloading. What the operator has chosen
// and not yet sent stays as it is, whatever the fleet does meanwhile.

import { id, say, setText, t } from "./dom.js";
import { showEndpoints } from "./endpoints.js";

/**
 * @typedef {{policy: string, ready: boolean, draining: boolean, panic_mode: boolean, models: string[],
 *   active_requests: number, waiting_requests: number, retries: number, connections: number,
 *   outcomes: Record<string, number>, endpoints: import("./endpoints.js").Endpoint[],
 *   elasticity: {workers: number, min: number, max: number, reason: string | null} | null}} Fleet
 */

const PERIOD = 1000;
const TIMEOUT = 10000;
/** Curves get a new point only every few seconds. */
const HISTORY_EVERY = 3;
let turn = 0;

/** @param {Fleet} fleet */
function show(fleet) {
  showFigures(fleet);
  showPolicy(fleet.policy);
  showEndpoints(fleet.endpoints);
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
}

/** The policy that the choice showed when it was last set here. @type {string} */
let set = id("policy").querySelector("[selected]")?.value;
let isChosen = false;
id("policy").addEventListener("change", () => { isChosen = true; });

/** Shows the policy that is in use: in the choice, or beside it while another one is chosen there. @param {string} policy */
function showPolicy(policy) {
  const choice = id("policy");
  // A browser that returns to the page restores what was chosen there.
  isChosen = choice.value !== policy && (isChosen || choice.value !== set);
  if (!isChosen && choice.value !== policy) choice.value = policy;
  if (!isChosen) set = policy;
  id("in-use").hidden = !isChosen;
  setText(id("in-use"), isChosen ? t("in_use", { policy }) : "");
}

/** The number of the latest request, and of the latest one whose answer is shown. */
let asked = 0;
let shown = 0;

/**
 * Sends a request and shows its answer, unless that of a later request is already shown.
 * @param {string} address @param {RequestInit} [how]
 */
async function ask(address, how = {}) {
  const number = ++asked;
  const headers = { accept: "application/json" };
  const answer = await fetch(address, { cache: "no-store", headers, signal: AbortSignal.timeout(TIMEOUT), ...how });
  const fleet = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refusal(fleet.error ?? t("status", { status: answer.status }));
  if (number < shown) return;
  shown = number;
  show(fleet);
}

/** An answer that reports an error. */
class Refusal extends Error {}

/** @param {unknown} error */
const why = (error) => (error instanceof Refusal ? error.message : t("stale"));

/** @param {HTMLElement} notice @param {string} text An empty text hides it. */
function notify(notice, text) {
  setText(notice, text);
  notice.hidden = !text;
}

async function look() {
  if (!document.hidden) {
    try {
      await ask(turn++ % HISTORY_EVERY === 0 ? "fleet.json?history=1" : "fleet.json");
      notify(id("stale"), "");
    } catch (error) {
      notify(id("stale"), why(error));
      setText(id("pill"), t("lost"));
      id("pill").classList.add("pill-bad");
    }
  }
  setTimeout(look, PERIOD);
}

/** Orders are sent in sequence: the content of each depends on the effect of the last one. @type {Promise<void>} */
let orders = Promise.resolve();

/** @param {HTMLFormElement} form @param {string} policy */
async function order(form, policy) {
  const isPolicy = form.id === "policy-form";
  const action = isPolicy ? `fleet/policy?name=${encodeURIComponent(policy)}` : form.getAttribute("action") ?? "";
  const row = /** @type {HTMLElement | null} */ (form.closest("[data-endpoint]"));
  const verb = action.split("/").pop()?.replace(/\?.*=/, " ") ?? "";
  try {
    await ask(action, { method: "POST" });
    notify(id("problem"), "");
    say(t("confirm", { verb, name: row?.dataset.endpoint ?? "" }));
  } catch (error) {
    // It stays until the next order: updates that arrive meanwhile do not concern it.
    notify(id("problem"), t("not_done", { verb, name: row?.dataset.endpoint ?? "", why: why(error) }));
  }
}

document.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = /** @type {HTMLFormElement} */ (event.target);
  const policy = id("policy").value;
  orders = orders.then(() => order(form, policy));
});
// The second click of a double click would undo the effect of the first.
document.addEventListener("click", (event) => {
  const button = event.target instanceof Element && event.target.closest("[data-verb=drain], [data-verb=kill]");
  if (button && event.detail > 1) event.preventDefault();
});
look();
