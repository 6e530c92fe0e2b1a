"use strict";

// Charts follow the reader's light or dark setting, so their colours are chosen here and not in the specifications.
const DARK = window.matchMedia("(prefers-color-scheme: dark)");
const TEXTS = document.body.dataset;
const views = {};

function theme(dark, width, entry) {
  const ink = dark ? "#e6e9ee" : "#1c2430";
  const muted = dark ? "#9aa4b2" : "#5d6878";
  const line = dark ? "#333c49" : "#e2e6ec";
  const card = dark ? "#1a2029" : "#ffffff";
  const accent = dark ? "#6ea8fe" : "#2563c9";
  const text = { labelColor: muted, titleColor: ink, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 };
  return {
    background: "transparent",
    font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'PingFang SC', 'Noto Sans SC', 'Noto Sans CJK SC', sans-serif",
    view: { stroke: null },
    axis: { ...text, gridColor: line, domainColor: line, tickColor: line, titlePadding: 8 },
    legend: { ...text, orient: "top", symbolOpacity: 1, labelLimit: Math.max(200, width - 90), columns: Math.max(1, Math.floor((width - 60) / entry)) },
    range: {
      // Along these for values that have an order, few or many.
      ordinal: {
        scheme: dark ? ["#4a4fe0", "#c060c8", "#f59a62", "#fffac0"] : ["#c48a00", "#c0406f", "#4a25a0", "#000018"],
      },
      heatmap: dark ? ["#222b38", "#35588f", "#8dbbff"] : ["#eef3fb", "#9dbdf0", "#1f56b3"],
      ramp: dark ? ["#4a5a75", "#4f7fca", "#9cc4ff"] : ["#a3b4d0", "#6493dd", "#174a9f"],
      // Apart for eyes of every kind: tests/unit/multirun_analysis/charts/test_colours.py.
      category: dark
        ? ["#6ea8fe", "#e47e02", "#079469", "#b42fb3", "#9a53f6", "#efd828", "#d23419", "#9fa5bd"]
        : ["#2563c9", "#b68200", "#35a562", "#d7098e", "#3a2190", "#ad4820", "#5f2c47", "#8980cf"],
      // Five, as there are dashes: with as many as colours the ninth series would look like the first.
      symbol: ["circle", "square", "triangle-up", "cross", "diamond"],
    },
    style: {
      plain: { color: accent },
      faint: { color: muted },
      base: { color: muted, strokeDash: [6, 4], strokeWidth: 1.5 },
      "base-dot": { color: muted },
      "base-word": { color: muted, fontSize: 12 },
      ring: { color: ink },
      tick: { color: ink },
      piece: { stroke: card, strokeWidth: 1 },
      halo: { color: card, stroke: card, strokeWidth: 4, strokeJoin: "round" },
      "on-strong": { color: dark ? "#0d1420" : "#ffffff" },
      "on-weak": { color: ink },
    },
  };
}

function draw() {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  for (const place of document.querySelectorAll("[data-chart]")) {
    const spec = specs[place.dataset.chart];
    const options = {
      config: theme(DARK.matches, place.clientWidth, spec.usermeta.legendEntry),
      renderer: "svg",
      ast: true, // expressions are interpreted, so that the page's policy can forbid eval
      actions: { export: true, source: false, compiled: false, editor: false },
      i18n: { CLICK_TO_VIEW_ACTIONS: TEXTS.actions, PNG_ACTION: TEXTS.png, SVG_ACTION: TEXTS.svg },
      tooltip: { theme: DARK.matches ? "dark" : "light" },
    };
    vegaEmbed(place, spec, options)
      .then((made) => {
        place.querySelector("summary")?.setAttribute("aria-label", TEXTS.actions); // it is a sign of three dots
        if (!spec.usermeta.rows) return;
        views[place.dataset.chart] = made.view;
        made.view.addEventListener("click", (_, item) => item?.datum?.name && pickRow(item.datum.name));
        // Vega has the tooltip of a line at its corners only; here the whole line is one trial.
        made.view.addEventListener("pointermove", (event, item) => {
          if (item?.tooltip && item.mark.marktype === "line") made.view.tooltip()(null, event, item, item.tooltip);
        });
        applyFilter();
      })
      .catch((error) => {
        place.classList.add("wrong");
        place.textContent = `${TEXTS.undrawn} ${error}`;
      });
  }
}

// The cell of a column: one that spans several is that of each of them.
function cellAt(row, column) {
  let end = 0;
  return [...row.cells].find((cell) => (end += cell.colSpan) > column);
}

function sortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  const number = (row, column) => parseFloat((cellAt(row, column).dataset.value ?? cellAt(row, column).textContent).replace("≈", ""));
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const compare = (a, b) => {
        const [x, y] = [number(a, column), number(b, column)];
        if (Number.isNaN(x) || Number.isNaN(y)) {
          if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // what has no number goes last
          return cellAt(a, column).textContent.localeCompare(cellAt(b, column).textContent) * (up ? 1 : -1);
        }
        return (x - y) * (up ? 1 : -1);
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(compare));
    });
  });
}

const filters = document.querySelector(".filters");

function boardRows() {
  return [...document.querySelector("table.board").tBodies[0].rows];
}

// Hides the rows that do not match, and fades their lines in the charts of all trials. A base has no rank or learning
// rate, so it stays whatever is chosen of them: it is what the others are compared with.
function applyFilter() {
  const wanted = filters.querySelector("input[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = [...filters.querySelectorAll("select")].filter((one) => one.value);
  const onlyAlike = filters.querySelector("input[type=checkbox]")?.checked;
  const rows = boardRows();
  for (const row of rows) {
    const values = JSON.parse(row.dataset.values);
    const text = row.textContent.toLowerCase();
    const fits =
      wanted.every((word) => text.includes(word)) &&
      chosen.every((one) => (values[one.name] ?? one.value) === one.value) &&
      (!onlyAlike || row.matches(".best, .alike"));
    row.hidden = !fits;
  }
  const left = rows.filter((row) => !row.hidden);
  const output = filters.querySelector("output");
  output.textContent = output.dataset.text.replace("SHOWN", left.length).replace("ALL", rows.length);
  const names = left.length === rows.length ? [] : ["", ...left.flatMap(namesOf)];
  for (const view of Object.values(views)) view.signal("shown", names).runAsync();
}

// A row of a setting stands for the trials of all its seeds.
function namesOf(row) {
  return row.dataset.names ? JSON.parse(row.dataset.names) : [row.dataset.name];
}

function isFiltered() {
  return boardRows().some((row) => row.hidden);
}

function pickRow(name) {
  for (const row of boardRows()) row.classList.toggle("picked", namesOf(row).includes(name));
  const picked = document.querySelector("tr.picked");
  if (!picked) return;
  if (picked.hidden) {
    filters.reset();
    applyFilter();
    remember("board");
  }
  picked.scrollIntoView({ block: "center", behavior: "smooth" });
}

// Two trials side by side in the table of terms, whatever order its rows are in.
function chooseTerms(form) {
  const table = document.querySelector("table.terms");
  const figures = JSON.parse(table.dataset.figures);
  const shown = [];
  const show = () => {
    [...form.querySelectorAll("select")].forEach((select, side) => {
      if (shown[side] === select.value) return;
      shown[side] = select.value;
      figures[select.value].forEach((found, kind) => {
        const column = 2 + 2 * side + kind;
        const heading = table.tHead.rows[0].cells[column];
        heading.querySelector("small").textContent = select.selectedOptions[0].textContent;
        heading.removeAttribute("aria-sort"); // its figures are others now
        for (const row of table.tBodies[0].rows) {
          const figure = found[row.dataset.place];
          row.cells[column].textContent = figure === null ? "–" : figure.toFixed(1);
        }
      });
    });
  };
  keepInAddress(form, show);
}

function copyable(button) {
  const command = button.parentElement.querySelector("pre");
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
    } catch {
      window.getSelection().selectAllChildren(command); // no permission: it is marked, for Ctrl-C
      if (!document.execCommand("copy")) return;
    }
    button.textContent = button.dataset.done;
    setTimeout(() => (button.textContent = label), 1500);
  });
}

// A link from the leaderboard opens the trial that it leads to.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

// The address holds what is chosen in the page's forms: a link shows the same, and the back button undoes a choice.
// #board?lora.r=32 leads to the leaderboard with that filter. A form in which nothing is chosen is left out.
const kept = [];
let isTyping = false; // in a text field: its letters are one step back, not many

function keepInAddress(form, show) {
  const place = form.closest("section").id;
  form.reset(); // a browser keeps what was chosen before it loaded the page again
  kept.push({ form, show, unchosen: choicesIn(form) });
  form.hidden = false;
  form.addEventListener("input", (event) => (show(), remember(place, event.target.type === "search")));
  form.addEventListener("reset", () => setTimeout(show));
  form.querySelector("[type=reset]")?.addEventListener("click", () => setTimeout(remember, 0, place));
  form.addEventListener("submit", (event) => event.preventDefault());
  restore(kept.slice(-1));
}

function choicesIn(form) {
  return String(new URLSearchParams([...new FormData(form)].filter(([, value]) => value)));
}

function choices() {
  const chosen = kept.map(({ form }) => choicesIn(form));
  return chosen.filter((one, place) => one !== kept[place].unchosen).join("&");
}

function remember(place, typing = false) {
  const chosen = choices();
  const address = `#${place}?${chosen}`;
  if (address !== location.hash) history[typing && isTyping ? "replaceState" : "pushState"]({ chosen }, "", address);
  isTyping = typing;
}

// An address without choices, such as that of a trial, leaves the forms as they are, and later brings that back.
function restore(some = kept) {
  const [place, chosen = history.state?.chosen] = location.hash.slice(1).split("?");
  isTyping = false;
  if (chosen === undefined) history.replaceState({ chosen: choices() }, "");
  for (const { form, show } of some) {
    if (chosen !== undefined) fill(form, new URLSearchParams(chosen));
    show();
  }
  const section = some.find(({ form }) => form.closest("section").id === place)?.form.closest("section");
  const { top, bottom } = section?.getBoundingClientRect() ?? {};
  if (bottom < 0 || top > window.innerHeight) section.scrollIntoView();
}

function fill(form, chosen) {
  form.reset();
  for (const [name, value] of chosen) {
    const field = form.elements.namedItem(name);
    if (field?.type === "checkbox") field.checked = true;
    else if (field?.type === "search" || [...(field?.options ?? field ?? [])].some((one) => one.value === value)) field.value = value;
  }
}

// While a sweep is watched the page loads itself again, but not under the hands of someone who filters or listens.
function reloadWhenIdle() {
  const playing = [...document.querySelectorAll("audio")].some((audio) => !audio.paused);
  if (!playing && !isFiltered() && !document.activeElement?.closest("form")) location.reload();
}

keepInAddress(filters, applyFilter);
if (document.querySelector("[data-chart]")) {
  draw();
  DARK.addEventListener("change", draw);
  let width = window.innerWidth;
  let waiting;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a phone's address bar comes and goes: only the height changes
    width = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(draw, 200);
  });
}
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("button.copy").forEach(copyable);
document.querySelectorAll("#choose-terms").forEach(chooseTerms);
window.addEventListener("hashchange", () => (restore(), openTarget()));
openTarget();
if (TEXTS.reload) setInterval(reloadWhenIdle, 1000 * Number(TEXTS.reload));
