"use strict";

// Charts follow the reader's light or dark setting, so their colours are chosen here and not in the specifications.
const DARK = window.matchMedia("(prefers-color-scheme: dark)");

function theme(dark, legendColumns) {
  const ink = dark ? "#e6e9ee" : "#1c2430";
  const muted = dark ? "#9aa4b2" : "#5d6878";
  const line = dark ? "#333c49" : "#e2e6ec";
  const accent = dark ? "#6ea8fe" : "#2563c9";
  const text = { labelColor: muted, titleColor: ink, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 };
  return {
    background: "transparent",
    font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'PingFang SC', 'Noto Sans SC', sans-serif",
    view: { stroke: null },
    axis: { ...text, gridColor: line, domainColor: line, tickColor: line, titlePadding: 8 },
    legend: { ...text, orient: "top", symbolOpacity: 1, labelLimit: 320, columns: legendColumns },
    range: {
      heatmap: dark ? ["#222b38", "#35588f", "#8dbbff"] : ["#eef3fb", "#9dbdf0", "#1f56b3"],
      category: dark
        ? ["#6ea8fe", "#f5b041", "#5ad1a3", "#f1798b", "#b79cf7", "#63d2e6", "#d9c56a", "#e29bd3", "#9fb4c7", "#c8a07a"]
        : ["#2563c9", "#d9820f", "#14866d", "#c8364f", "#7a4fd0", "#0f8aa6", "#8d7a12", "#b0479a", "#5b7186", "#8a5a2b"],
    },
    style: {
      plain: { color: accent },
      base: { color: muted, strokeDash: [6, 4], strokeWidth: 1.5 },
      "base-dot": { color: muted },
      "base-word": { color: muted, fontSize: 12 },
      ring: { color: ink },
      "on-strong": { color: dark ? "#0d1420" : "#ffffff" },
      "on-weak": { color: ink },
    },
  };
}

function draw() {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  for (const place of document.querySelectorAll("[data-chart]")) {
    const spec = specs[place.dataset.chart];
    const columns = Math.max(1, Math.floor((place.clientWidth - 60) / spec.usermeta.legendEntry));
    const options = {
      config: theme(DARK.matches, columns),
      renderer: "svg",
      ast: true, // expressions are interpreted, so that the page's policy can forbid eval
      actions: { export: true, source: false, compiled: false, editor: false },
      tooltip: { theme: DARK.matches ? "dark" : "light" },
    };
    vegaEmbed(place, spec, options).catch((error) => {
      place.classList.add("wrong");
      place.textContent = `This chart could not be drawn: ${error}`;
    });
  }
}

function sortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  const number = (row, column) => parseFloat(row.cells[column].dataset.value ?? row.cells[column].textContent);
  headings.forEach((heading, column) => {
    heading.tabIndex = 0;
    const sort = () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const compare = (a, b) => {
        const [x, y] = [number(a, column), number(b, column)];
        if (Number.isNaN(x) || Number.isNaN(y)) {
          if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // what has no number goes last
          return a.cells[column].textContent.localeCompare(b.cells[column].textContent) * (up ? 1 : -1);
        }
        return (x - y) * (up ? 1 : -1);
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(compare));
    };
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}

// A link from the leaderboard opens the trial that it leads to.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

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
window.addEventListener("hashchange", openTarget);
openTarget();
