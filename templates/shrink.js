// Makes a picture fit: pictures that are too large for the balancer, and formats that only the
// browser reads, are redrawn and sent as JPEG.

import { size, t } from "./dom.js";

const READABLE = /^image\/(jpeg|png|webp|gif|bmp|x-ms-bmp|tiff)$/;
const READABLE_NAME = /\.(jpe?g|png|webp|gif|bmp|tiff?)$/i;
/** No model looks at more than a fraction of this. */
const MAX_SIDE = 2048;
const MAX_PIXELS = 12e6;
/** Bytes of the form in addition to the picture. */
const OVERHEAD = 4096;

/**
 * Whether a picture has to be redrawn, and at which size. Width and height are 0 while they are unknown.
 * @param {{type: string, name: string, bytes: number, width: number, height: number}} picture
 * @param {number} limit Maximum number of bytes that may be sent.
 * @returns {{width: number, height: number, isForeign: boolean} | null}
 */
export function plan({ type, name, bytes, width, height }, limit) {
  const isForeign = type ? !READABLE.test(type) : !READABLE_NAME.test(name);
  const isLarge = bytes + OVERHEAD > limit || width * height > MAX_PIXELS;
  if (!isForeign && !isLarge) return null;
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height, 1));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)), isForeign };
}

/**
 * The picture to send, and a sentence about what was done to it. A file that the browser cannot
 * decode is sent as it is, because the worker reports what is wrong with it.
 * @param {File} file @param {number} limit
 * @returns {Promise<{picture: Blob, note: string}>}
 */
export async function fit(file, limit) {
  const known = { type: file.type, name: file.name, bytes: file.size };
  const asItIs = { picture: file, note: "" };
  // Small files of a known format are sent without being decoded.
  if (!plan({ ...known, width: 0, height: 0 }, limit) && file.size < 1e6) return asItIs;
  const image = await decoded(file);
  if (!image) return asItIs;
  const wanted = plan({ ...known, width: image.naturalWidth || 512, height: image.naturalHeight || 512 }, limit);
  if (!wanted) return asItIs;
  const canvas = Object.assign(document.createElement("canvas"), { width: wanted.width, height: wanted.height });
  const ink = canvas.getContext("2d");
  if (!ink) return asItIs;
  ink.fillStyle = "#fff";
  ink.fillRect(0, 0, wanted.width, wanted.height);
  ink.drawImage(image, 0, 0, wanted.width, wanted.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  if (!blob) return asItIs;
  const picture = new File([blob], file.name.replace(/\.\w+$/, "") + ".jpg", { type: "image/jpeg" });
  const note = wanted.isForeign
    ? t("converted", { type: file.type.replace("image/", "").replace("+xml", "").toUpperCase() || file.name })
    : t("shrunk", { before: size(file.size), after: size(blob.size) });
  return { picture, note };
}

/** @param {Blob} file @returns {Promise<HTMLImageElement | null>} */
export async function decoded(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
    return image;
  } catch {
    return null;
  } finally {
    URL.revokeObjectURL(image.src);
  }
}
