// The camera: what it shows is classified one frame at a time, the latest first; one frame can be
// kept as a picture.

import { id, latest, t } from "./dom.js";

/** Longest side of a frame that is sent. */
const MAX_SIDE = 512;

/**
 * @typedef {{classify: (frame: Blob) => Promise<unknown>, keep: (frame: File) => unknown,
 *   fail: (title: string, text: string) => void}} Page
 */

export class Camera {
  /** @type {HTMLVideoElement} */
  #video = id("camera-view");
  #button = id("camera");
  #still = id("camera-still");
  #name = this.#button.textContent;
  /** @type {MediaStream | null} */
  #stream = null;
  #page;
  // The next frame is taken when the last one was answered.
  #ask = latest(async () => {
    while (this.#stream && !document.hidden) {
      await this.#page.classify(await this.#frame());
      await new Promise((resolve) => requestAnimationFrame(resolve));
    }
  });

  /** @param {Page} page */
  constructor(page) {
    this.#page = page;
    this.#still.addEventListener("click", async () => {
      const picture = new File([await this.#frame()], `${t("photo")}.jpg`, { type: "image/jpeg" });
      this.stop();
      this.#button.focus();
      page.keep(picture);
    });
    document.addEventListener("visibilitychange", () => this.#stream && this.#ask());
  }

  toggle() {
    if (this.#stream) this.stop();
    else this.#start();
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
    this.#video.hidden = this.#still.hidden = true;
    this.#button.textContent = this.#name;
    id("upload").classList.remove("has-video");
  }

  async #start() {
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      this.#page.fail(t("no_camera"), error instanceof Error ? error.message : String(error));
      return;
    }
    this.#video.srcObject = this.#stream;
    this.#video.hidden = this.#still.hidden = false;
    this.#button.textContent = t("camera_stop");
    id("upload").classList.add("has-video");
    await this.#video.play();
    this.#ask();
  }

  /** @returns {Promise<Blob>} */
  #frame() {
    const { videoWidth: width, videoHeight: height } = this.#video;
    const scale = Math.min(1, MAX_SIDE / Math.max(width, height, 1));
    const canvas = Object.assign(document.createElement("canvas"), { width: width * scale, height: height * scale });
    canvas.getContext("2d")?.drawImage(this.#video, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve, reject) =>
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no frame"))), "image/jpeg", 0.9));
  }
}
