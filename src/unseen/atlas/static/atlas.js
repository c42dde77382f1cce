// Copying, the map's hover, "/" for the search box. Every page works without it.
"use strict";

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = document.getElementById(button.dataset.copy).textContent;
  navigator.clipboard.writeText(text).then(() => {
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  });
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input, textarea, select")) return;
  const box = document.querySelector("[data-slash]") || document.querySelector("input[type=search]");
  if (!box) return;
  event.preventDefault();
  box.focus();
  box.select();
});

// While someone types, the last word may be unfinished.
document.addEventListener("htmx:configRequest", (event) => {
  const cause = event.detail.triggeringEvent;
  if (cause && cause.type === "input") event.detail.parameters.set("typing", "1");
  for (const [name, value] of [...event.detail.parameters.entries()]) {
    if (value === "") event.detail.parameters.delete(name);
  }
});
// The address in the bar is the search's own, without the mark of typing.
document.addEventListener("htmx:beforeHistoryUpdate", (event) => {
  const history = event.detail.history;
  const path = new URL(history.path, location.href);
  path.searchParams.delete("typing");
  history.path = path.pathname + path.search;
});

const map = document.getElementById("map");
if (map) {
  const tip = document.getElementById("tip");
  const show = (event) => {
    const point = event.target.matches("circle") ? event.target : event.target.querySelector?.("circle");
    if (!point) return;
    tip.replaceChildren(document.createElement("strong"), point.dataset.facts);
    tip.firstChild.textContent = point.dataset.title;
    tip.hidden = false;
    const box = map.getBoundingClientRect();
    const at = point.getBoundingClientRect();
    const left = Math.min(Math.max(at.left - box.left - tip.offsetWidth / 2, 0), box.width - tip.offsetWidth);
    tip.style.left = `${left}px`;
    const above = at.top - box.top - tip.offsetHeight - 8;
    tip.style.top = `${above > 0 ? above : at.bottom - box.top + 8}px`;
  };
  for (const name of ["mouseover", "focusin"]) map.addEventListener(name, show);
  for (const name of ["mouseout", "focusout"]) map.addEventListener(name, () => { tip.hidden = true; });
  for (const radio of document.querySelectorAll("[name=color]")) {
    radio.addEventListener("change", () => {
      map.dataset.color = radio.value;
      document.querySelector(".by-family").hidden = radio.value !== "family";
      document.querySelector(".by-verdict").hidden = radio.value !== "verdict";
    });
  }
}

// What was typed is searched for already; leaving the box must not change the results under a reader's hands.
document.addEventListener("change", (event) => { if (event.target.id === "q") event.stopPropagation(); }, true);
