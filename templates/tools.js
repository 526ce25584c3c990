// What can be done with an answer: copy it as a command, as a program, as JSON or as a link, or
// have the fleet find out which parts of the picture it depends on.

import { id, make, root, say, t } from "./dom.js";

/** @typedef {import("./result.js").Entry} Entry */

/** A text as one word of a POSIX shell. @param {string} text */
export const quoted = (text) => (/^[\w.,:/@=+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** The fields of a request besides its picture. @param {Entry} entry @returns {[string, string][]} */
function fields({ model, options }) {
  /** @type {[string, string][]} */
  const all = [];
  if (options?.servers) all.push(["number_backend_servers", options.servers]);
  if (model) all.push(["model", model]);
  return all;
}

/** @param {Entry} entry @param {string} address */
export function asCurl(entry, address) {
  const picture = typeof entry.picture === "string" ? `IMAGE_URL=${entry.picture}` : `image=@${entry.name}`;
  const parts = [...fields(entry).map(([name, value]) => `${name}=${value}`), picture];
  return `curl -H ${quoted("Accept: application/json")} ${parts.map((part) => `-F ${quoted(part)}`).join(" ")} ${quoted(address)}`;
}

/** @param {Entry} entry @param {string} address */
export function asPython(entry, address) {
  const data = Object.fromEntries(fields(entry));
  if (typeof entry.picture === "string") data.IMAGE_URL = entry.picture;
  const file = typeof entry.picture === "string" ? "" : `\n    files={"image": open(${JSON.stringify(entry.name)}, "rb")},`;
  return `import requests

answer = requests.post(
    ${JSON.stringify(address)},
    headers={"Accept": "application/json"},
    data=${JSON.stringify(data)},${file}
    timeout=30,
)
print(answer.json()["label"])
`;
}

/** A link to this page with the options of an answer. @param {Entry} entry */
export function asLink(entry) {
  const link = new URL(root);
  if (document.documentElement.lang !== "en") link.searchParams.set("lang", document.documentElement.lang);
  if (entry.model) link.searchParams.set("model", entry.model);
  if (entry.options?.servers) link.searchParams.set("servers", entry.options.servers);
  if (typeof entry.picture === "string") link.searchParams.set("image", entry.picture);
  return link.href;
}

/** @param {HTMLElement} row @param {HTMLElement} more Where the explanation is shown. @param {Entry} entry */
export function tools(row, more, entry) {
  const address = new URL("submit", root).href;
  const copies = {
    curl: () => asCurl(entry, address),
    python: () => asPython(entry, address),
    json: () => `${JSON.stringify(entry.prediction, null, 2)}\n`,
    link: () => asLink(entry),
  };
  for (const [kind, text] of Object.entries(copies)) {
    const button = make("button", { type: "button", className: "small", textContent: t(`copy_${kind}`) });
    button.dataset.copy = kind;
    button.addEventListener("click", () => copy(text()));
    row.append(button);
  }
  if (typeof entry.picture === "string") return;
  const button = make("button", { type: "button", className: "small", id: "explain", textContent: t("explain") });
  button.addEventListener("click", async () => {
    button.setAttribute("aria-disabled", "true");
    const { explain } = await import("./explain.js");
    await explain(entry, more);
    button.removeAttribute("aria-disabled");
  });
  row.append(button);
  if (!entry.prediction.input) import("./explain.js").then(({ view }) => view(entry, more));
}

/** Browsers have no clipboard for pages that came over plain HTTP from another machine. @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { value: text, className: "hidden" });
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    id("answer").append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    focused?.focus();
  }
  say(t("copied"));
  const note = document.getElementById("copied") ?? make("p", { id: "copied", className: "quiet", textContent: t("copied") });
  document.querySelector(".tools-row")?.after(note);
}
