// Runs before the page is painted: applies the chosen colours, and makes room for what only scripts can do.
"use strict";

document.documentElement.classList.add("js");
try {
  document.documentElement.dataset.theme = localStorage.getItem("theme") || "";
} catch {
  // Without storage the page follows the system.
}
document.addEventListener("DOMContentLoaded", () => {
  const root = document.documentElement;
  document.getElementById("theme")?.addEventListener("click", () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // Without storage the choice applies to this page only.
    }
  });
});
