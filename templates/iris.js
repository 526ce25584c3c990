// The iris model: four sliders, and a chart of its predictions for other petals.

import { inMs, latest, make, percent, root, shape, t } from "./dom.js";
import { headline } from "./send.js";

/**
 * Name, minimum, maximum and initial value in centimetres, covering the range of irises.
 * @type {[string, number, number, number][]}
 */
const COLUMNS = [["sepal_length", 4, 8, 5.8], ["sepal_width", 2, 4.5, 3], ["petal_length", 1, 7, 4.3], ["petal_width", 0.1, 2.6, 1.3]];
const [WIDE, HIGH] = [24, 16];
const [, , LENGTH, WIDTH] = COLUMNS;
const decimal = (/** @type {number} */ value) => value.toLocaleString(document.documentElement.lang, { minimumFractionDigits: 1 });
const inCm = (/** @type {number} */ value) => `${decimal(value)} cm`;

/** No answer, or one without a prediction. */
class Refusal extends Error {
  /** @param {number} status @param {string} error */
  constructor(status, error) {
    super(error);
    this.status = status;
  }
}

/** @typedef {{species: string, values: string[], probabilities: number[]}} Answer */

/**
 * Has the model classify some flowers.
 * @param {Record<string, number>[]} instances
 * @returns {Promise<{answers: Answer[], worker: string | null, milliseconds: number}>}
 */
async function ask(instances) {
  const start = performance.now();
  const reply = await fetch(new URL("v1/models/iris_model:predict", root), { method: "POST", body: JSON.stringify({ instances }) })
    .catch(() => { throw new Refusal(0, t("unreachable_text")); });
  const answer = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Refusal(reply.status, answer.error ?? t("status", { status: reply.status }));
  const answers = answer.predictions.map((/** @type {any} */ one) => ({
    species: one.predicted_species?.[0] ?? one.predicted_species, values: one.species_values, probabilities: one.species_probs,
  }));
  return { answers, worker: reply.headers.get("x-imagefleet-endpoint"), milliseconds: performance.now() - start };
}

/**
 * @param {HTMLElement} pane
 * @param {{show: (node: Node) => void, fail: (title: string, text: string) => void, answered: (worker: string | null) => void}} page
 */
export function irisPane(pane, { show, fail, answered }) {
  /** @type {Record<string, number>} */
  const flower = Object.fromEntries(COLUMNS.map(([name, , , first]) => [name, first]));
  const range = { shortest: decimal(LENGTH[1]), longest: inCm(LENGTH[2]), narrowest: decimal(WIDTH[1]), widest: inCm(WIDTH[2]) };
  const chart = shape("svg", { class: "chart", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": t("iris_chart", range), preserveAspectRatio: "none" });
  const dot = shape("ellipse", { rx: 0.45, ry: 0.45 });

  const update = latest(async () => {
    const petals = Array.from({ length: WIDE * HIGH }, (_, at) => ({
      ...flower,
      petal_length: LENGTH[1] + ((at % WIDE) + 0.5) * ((LENGTH[2] - LENGTH[1]) / WIDE),
      petal_width: WIDTH[2] - (Math.floor(at / WIDE) + 0.5) * ((WIDTH[2] - WIDTH[1]) / HIGH),
    }));
    try {
      const { answers, worker, milliseconds } = await ask([{ ...flower }, ...petals]);
      const [own, ...others] = answers;
      const kind = (/** @type {Answer} */ one) => one.values.indexOf(one.species);
      const fields = others.map((one, at) => shape("rect", { x: at % WIDE, y: Math.floor(at / WIDE), width: 1.02, height: 1.02, class: `kind-${kind(one)}` }));
      dot.setAttribute("cx", String(((flower.petal_length - LENGTH[1]) / (LENGTH[2] - LENGTH[1])) * WIDE));
      dot.setAttribute("cy", String(((WIDTH[2] - flower.petal_width) / (WIDTH[2] - WIDTH[1])) * HIGH));
      chart.replaceChildren(...fields, dot);
      const rows = own.values.map((species, at) => ({ species, at, share: own.probabilities[at] })).sort((a, b) => b.share - a.share);
      const list = rows.map(({ species, at, share }) => {
        const bar = shape("svg", { class: "bar", "aria-hidden": "true" });
        bar.append(shape("rect", { class: `bar-fill kind-${at}`, height: "100%", width: `${share * 100}%`, rx: 4 }));
        return make("li", {}, make("span", { className: "bar-name", textContent: species }), make("span", { className: "bar-value", textContent: percent(share) }), bar);
      });
      answered(worker);
      show(make("div", { className: "filled" },
        make("div", {}, make("p", { className: "kicker", textContent: t("looks_like") }), make("p", { className: "label", textContent: own.species })),
        make("ol", { className: "bars" }, ...list),
        make("figure", {}, chart, make("figcaption", { className: "quiet", textContent: t("iris_chart", range) })),
        make("p", { className: "quiet", textContent: [worker, inMs(milliseconds)].filter(Boolean).join(" · ") })));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      fail(headline({ status: error.status, error: error.message }), error.message);
    }
  });

  const sliders = COLUMNS.map(([name, least, most, first]) => {
    const value = make("output", { textContent: inCm(first) });
    const input = make("input", { type: "range", min: least, max: most, step: 0.1, value: first, id: name });
    input.addEventListener("input", () => {
      flower[name] = Number(input.value);
      value.textContent = inCm(flower[name]);
      update();
    });
    return make("label", { className: "slider" }, t(name), input, value);
  });
  pane.replaceChildren(make("p", { className: "quiet", textContent: t("iris_lead") }), ...sliders);
  return update;
}
