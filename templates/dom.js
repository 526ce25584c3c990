// Helpers that every part of the page needs: finding and making elements, texts, numbers.

/** @param {string} name @returns {any} The element with this id, or null. */
export const id = (name) => document.getElementById(name);

/** The address that the balancer's paths are relative to, also behind another proxy. */
export const root = new URL(document.documentElement.dataset.root || "./", location.href);

/** @type {Record<string, string>} */
const texts = JSON.parse(id("texts")?.textContent || "{}");

/**
 * The text of a key in the language of the page.
 * @param {string} key @param {Record<string, string | number>} [values] Replacements for the names in braces.
 */
export function t(key, values = {}) {
  return (texts[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** Whether there is a text for a key. @param {string | number} key */
export const hasText = (key) => key in texts;

/**
 * @param {string} tag @param {Record<string, any>} [properties] @param {...(Node | string)} children
 * @returns {any}
 */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** @param {string} tag @param {Record<string, string | number>} attributes */
export function shape(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}

/** @param {string} name @returns {DocumentFragment} */
export const clone = (name) => id(name).content.cloneNode(true);

const language = document.documentElement.lang;

/** @param {number} share */
export const percent = (share) => `${(share * 100).toLocaleString(language, { minimumFractionDigits: 1, maximumFractionDigits: 1 })} %`;

/** @param {number} value */
export const inMs = (value) =>
  `${value.toLocaleString(language, { minimumFractionDigits: value < 10 ? 1 : 0, maximumFractionDigits: value < 10 ? 1 : 0 })} ms`;

/** @param {number} bytes */
export function size(bytes) {
  const [value, unit] = bytes >= 1e6 ? [bytes / 1e6, "MB"] : [bytes / 1e3, "kB"];
  return `${value.toLocaleString(language, { maximumFractionDigits: value < 10 ? 1 : 0 })} ${unit}`;
}

/** Has screen readers announce a sentence. @param {string} sentence */
export function say(sentence) {
  id("live").textContent = sentence;
}

/** Sets a text only if it differs, which saves a layout. @param {Element | null} element @param {string} text */
export function setText(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

/** Scrolls an element into view, to its beginning if it does not fit. @param {Element} element */
export function reveal(element) {
  const { top, bottom, height } = element.getBoundingClientRect();
  if (top >= 0 && bottom <= innerHeight) return;
  element.scrollIntoView({ block: height > innerHeight || top < 0 ? "start" : "nearest" });
}

/**
 * Runs `work` one call at a time; calls made meanwhile are merged into one further run.
 * @param {() => Promise<unknown>} work
 */
export function latest(work) {
  let isRunning = false;
  let isWanted = false;
  return async () => {
    isWanted = true;
    if (isRunning) return;
    isRunning = true;
    try {
      while (isWanted) {
        isWanted = false;
        await work();
      }
    } finally {
      isRunning = false;
    }
  };
}

/**
 * Runs `work` for every item, at most `width` at a time.
 * @template T @param {T[]} items @param {number} width @param {(item: T, index: number) => Promise<unknown>} work
 */
export async function inParallel(items, width, work) {
  let next = 0;
  const lane = async () => {
    while (next < items.length) {
      const index = next++;
      await work(items[index], index);
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, lane));
}
