"use strict";
// Decisions stay in the browser, so that a reload finds them again, also those of suspects that it does not list now.
const KEY = "decisions " + location.pathname;
const items = [...document.querySelectorAll("li[data-id]")];
const output = document.querySelector("output");
let kept = {};
const save = document.getElementById("save");

const radios = (item) => [...item.querySelectorAll("input[type=radio]")];
const text = (item) => item.querySelector("input[type=text]");

function decision(item) {
  const chosen = radios(item).find((radio) => radio.checked);
  return chosen ? chosen.value : "";
}

function choose(item, value) {
  radios(item).forEach((radio) => { radio.checked = radio.value === value; });
}

function told() {
  const decided = items.filter(decision);
  items.forEach((item) => item.classList.toggle("decided", decision(item) !== ""));
  output.textContent = output.dataset.decided.replace("{done}", decided.length);
  save.disabled = decided.length === 0;
  items.forEach((item) => delete kept[item.dataset.id]);
  decided.forEach((item) => { kept[item.dataset.id] = [decision(item), text(item).value, item.dataset.reference]; });
  try { localStorage.setItem(KEY, JSON.stringify(kept)); } catch (error) { /* a browser without storage */ }
}

function remembered() {
  try { kept = JSON.parse(localStorage.getItem(KEY)) || {}; } catch (error) { return; }
  for (const item of items) {
    const [value, correction, reference] = kept[item.dataset.id] || [];
    if (reference !== item.dataset.reference) continue;
    choose(item, value);
    text(item).value = correction;
  }
}

// As in our other CSVs (text.py:no_formula): a quote before a formula, and before one that has a quote already.
function cell(value) {
  const safe = /^'*[=+\-@＝＋－＠\t\r\n]/.test(value) ? "'" + value : value;
  return '"' + safe.replaceAll('"', '""') + '"';
}

function rows() {
  const decided = items.filter(decision);
  return decided.map((item) => {
    const value = decision(item);
    return [item.dataset.id, item.dataset.reference, value, value === "correct" ? text(item).value.trim() : ""];
  });
}

function download() {
  const lines = [["id", "reference", "decision", "correction"], ...rows()].map((row) => row.map(cell).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff" + lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "decisions.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

for (const item of items) {
  radios(item).forEach((radio) => radio.addEventListener("change", told));
  text(item).addEventListener("input", () => {
    const written = text(item).value.trim();
    choose(item, written === "" ? "drop" : written === item.dataset.reference ? "keep" : "correct");
    told();
  });
  item.querySelector("button")?.addEventListener("click", (event) => {
    text(item).value = event.currentTarget.dataset.heard;
    text(item).dispatchEvent(new Event("input"));
  });
}
save.addEventListener("click", download);
remembered();
told();
