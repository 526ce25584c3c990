// Sample pictures, drawn for this page, for visitors who have none at hand.

import { decoded } from "./shrink.js";

const SIDE = 320;

/** The picture of a button, as a file that workers read: they do not read SVG. @param {HTMLElement} button @returns {Promise<File | null>} */
export async function sample(button) {
  const source = /** @type {HTMLImageElement} */ (button.firstElementChild).src;
  const image = await decoded(await (await fetch(source)).blob());
  if (!image) return null;
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  canvas.getContext("2d")?.drawImage(image, 0, 0, SIDE, SIDE);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return blob && new File([blob], `${button.dataset.sample}.png`, { type: "image/png" });
}
