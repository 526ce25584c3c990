// One request and its result. XMLHttpRequest, because fetch does not report the progress of an upload.

import { hasText, root, t } from "./dom.js";

/**
 * @typedef {{label: string, index: number, confidence: number}} Guess
 * @typedef {{width: number, height: number, channels: number, pixels: string}} Input What a model was given.
 * @typedef {{label: string, confidence: number, top_k: Guess[], model: string, version: string,
 *   endpoint: string | null, timings_ms: Record<string, number>, input?: Input}} Prediction
 * @typedef {{status: number, prediction: Prediction | null, error: string, milliseconds: number}} Reply
 * @typedef {{model?: string, servers?: string, topK?: number, showsInput?: boolean,
 *   signal?: AbortSignal, onProgress?: (share: number) => void}} Options
 */

const TIMEOUT = 60000;

/**
 * Sends a picture, or the address of one; null if it was cancelled.
 * @param {Blob | string} picture @param {Options} options @returns {Promise<Reply | null>}
 */
export function send(picture, { model, servers, topK, showsInput, signal, onProgress } = {}) {
  const body = new FormData();
  // Fields first, so that the balancer finds them without reading past the picture.
  if (servers) body.append("number_backend_servers", servers);
  if (model) body.append("model", model);
  if (topK) body.append("top_k", String(topK));
  if (showsInput) body.append("show_input", "true");
  if (typeof picture === "string") body.append("IMAGE_URL", picture);
  else body.append("image", picture, picture instanceof File ? picture.name : "picture.png");
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve(null);
    const request = new XMLHttpRequest();
    const start = performance.now();
    const done = (/** @type {number} */ status, /** @type {any} */ answer) =>
      resolve({
        status,
        prediction: status === 200 && answer?.top_k ? answer : null,
        error: answer?.error || "",
        milliseconds: performance.now() - start,
      });
    request.open("POST", new URL("submit", root));
    request.setRequestHeader("Accept", "application/json");
    request.timeout = TIMEOUT;
    if (onProgress) {
      request.upload.onprogress = (event) => onProgress(event.lengthComputable ? event.loaded / event.total : 0);
      request.upload.onload = () => onProgress(1);
    }
    request.onload = () => done(request.status, parsed(request.responseText));
    request.onerror = () => done(0, { error: t("unreachable_text") });
    request.ontimeout = () => done(0, { error: t("timeout_text") });
    request.onabort = () => resolve(null);
    signal?.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

/** A proxy in front may answer with something other than JSON; then the status has to say what happened. @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** What went wrong, in a few words. @param {{status: number, error: string}} reply */
export function headline({ status, error }) {
  if (status === 0) return t("unreachable");
  if (status === 422 && /no digit/.test(error)) return t("no_digit");
  if (hasText(status)) return t(String(status));
  return t(status >= 500 ? "broken" : "other");
}
