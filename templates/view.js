// The input of the model, if it is only a few pixels: those that the worker made of a digit.

import { make, t } from "./dom.js";

/** The input of a model as bytes of red, green, blue and opacity. @param {import("./send.js").Input} input */
export function rgba({ width, height, channels, pixels }) {
  const bytes = Uint8Array.from(atob(pixels), (sign) => sign.charCodeAt(0));
  const colours = new Uint8ClampedArray(width * height * 4);
  for (let at = 0; at < width * height; at += 1) {
    for (let colour = 0; colour < 3; colour += 1) {
      colours[at * 4 + colour] = bytes[at * channels + (channels === 1 ? 0 : colour)];
    }
    colours[at * 4 + 3] = 255;
  }
  return colours;
}

/** Shows the pixels. @param {import("./send.js").Input} input @param {HTMLElement} more */
export function showInput(input, more) {
  const { width, height } = input;
  const canvas = Object.assign(document.createElement("canvas"), { width, height, className: "pixels" });
  canvas.getContext("2d")?.putImageData(new ImageData(rgba(input), width, height), 0, 0);
  frame(canvas, t("saw_pixels", { width, height }), more);
}

/** @param {HTMLCanvasElement} canvas @param {string} words @param {HTMLElement} more */
export function frame(canvas, words, more) {
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", words);
  more.append(make("figure", { className: "saw" }, canvas, make("figcaption", { className: "quiet", textContent: words })));
}
