// Where pictures come from besides the camera: the file dialogue, a drop anywhere on the page, the
// clipboard, and the address of one on the web.

import { id } from "./dom.js";

/** @param {DataTransfer | null} data */
const isWelcome = (data) => data !== null && (data.types.includes("Files") || data.types.includes("text/uri-list"));

/** The first web address in a text. @param {string} text */
export function addressIn(text) {
  const line = text.split(/\r?\n/).map((part) => part.trim()).find((part) => part && !part.startsWith("#")) ?? "";
  return /^https?:\/\/\S+$/i.test(line) ? line : "";
}

/** @param {{files: (files: File[]) => unknown, address: (address: string) => unknown}} take */
export function sources(take) {
  const input = id("image");
  input.addEventListener("change", () => {
    const files = [...input.files];
    // So that the same file can be chosen again.
    input.value = "";
    take.files(files);
  });
  document.addEventListener("dragover", (event) => {
    if (!isWelcome(event.dataTransfer)) return;
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dragging");
    if (!event.dataTransfer || !isWelcome(event.dataTransfer)) return;
    event.preventDefault();
    takeFrom(event.dataTransfer);
  });
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData || event.target instanceof HTMLInputElement) return;
    if (takeFrom(event.clipboardData)) event.preventDefault();
  });
  id("address-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    take.address(id("address").value.trim());
  });

  /** Takes what is in `data`; returns whether there was anything. @param {DataTransfer} data */
  function takeFrom(data) {
    const files = [...data.files];
    const address = addressIn(data.getData("text/uri-list") || data.getData("text/plain"));
    if (files.length > 0) take.files(files);
    else if (address) take.address(address);
    return files.length > 0 || address !== "";
  }
}
