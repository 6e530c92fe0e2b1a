// Every utterance under two trials, with the base and the recommended trial beside them. side_by_side.py packs the texts.

const AT_ONCE = 10; // utterances that are shown, and that a click adds
const MOST_SHOWN = 400; // characters of one text
const PROVEN = 0.05;

async function unpacked(base64) {
  const bytes = Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// The edits of a shortest edit path between two lists of characters, as pieces with what is missing and what is there.
function edits(reference, heard) {
  const [rows, columns] = [reference.length + 1, heard.length + 1];
  const cost = new Uint16Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const here = row * columns + column;
      if (!row || !column) cost[here] = row + column;
      else if (reference[row - 1] === heard[column - 1]) cost[here] = cost[here - columns - 1];
      else cost[here] = 1 + Math.min(cost[here - columns - 1], cost[here - columns], cost[here - 1]);
    }
  }
  const pieces = [];
  const add = (kind, missing, there) => {
    if (pieces[0]?.kind !== kind) pieces.unshift({ kind, missing: "", there: "" });
    pieces[0].missing = missing + pieces[0].missing;
    pieces[0].there = there + pieces[0].there;
  };
  let [row, column] = [rows - 1, columns - 1];
  while (row || column) {
    const here = row * columns + column;
    const [left, right] = [reference[row - 1], heard[column - 1]];
    if (row && column && cost[here] === cost[here - columns - 1] + (left !== right)) {
      add(left === right ? "equal" : "replace", left, right);
      row--, column--;
    } else if (row && cost[here] === cost[here - columns] + 1) {
      add("delete", left, "");
      row--;
    } else {
      add("insert", "", right);
      column--;
    }
  }
  return pieces;
}

function element(name, text, kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function filled(text, values) {
  return Object.entries(values).reduce((found, [name, value]) => found.replace(name, () => value), text);
}

function compareUtterances(section, all) {
  const form = section.querySelector("form");
  const list = section.querySelector("ol");
  const more = section.querySelector("button.more");
  const template = section.querySelector("template");
  const choices = [...form.elements.trial.options];
  const keys = choices.map((option) => option.value);
  const clips = new Map([...document.querySelectorAll("audio[data-id]")].map((one) => [one.dataset.id, one.src]));
  const characters = all.texts.map((texts) => texts.map((text) => [text].flat()[0])); // of a cut text its begin
  const searched = characters.map((texts, place) => [all.ids[place], ...texts].join("\n").toLowerCase());
  let [trial, other, places] = [0, 0, []];

  const errors = (place, number) => all.edits[place][number] / all.repeats[number];
  const gain = (place) => errors(place, other) - errors(place, trial);
  const kinds = {
    all: () => true,
    changed: (place) => all.which[place][trial] !== all.which[place][other],
    fixed: (place) => errors(place, other) > 0 && errors(place, trial) === 0,
    broken: (place) => errors(place, other) === 0 && errors(place, trial) > 0,
    wrong: (place) => errors(place, other) > 0 && errors(place, trial) > 0,
    suspect: (place) => place in all.suspects,
  };
  const orders = {
    difference: (place) => Math.abs(gain(place)),
    errors: (place) => errors(place, trial),
    place: (place) => -place,
  };

  function choose() {
    [trial, other] = [form.elements.trial, form.elements.with].map((select) => keys.indexOf(select.value));
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = all.ids.map((_, place) => place).filter((place) => words.every((word) => searched[place].includes(word)));
    for (const radio of form.elements.show) {
      radio.parentElement.querySelector("b").textContent = found.filter(kinds[radio.value]).length;
    }
    const order = orders[form.elements.sort.value];
    places = found.filter(kinds[form.elements.show.value]).sort((a, b) => order(b) - order(a) || a - b);
    const output = form.querySelector("output");
    output.textContent = filled(output.dataset.text, { SHOWN: places.length, ALL: all.ids.length });
    tellPair();
    list.replaceChildren();
    show();
  }

  // The difference is the trial's CER minus the other one's, in the order in which they were chosen.
  function tellPair() {
    const [rates, difference, p, counts] = form.querySelectorAll(".pair dd");
    const points = (share) => (100 * share || 0).toFixed(2).replace("-", "−");
    const [mine, its] = [all.settings[trial], all.settings[other]]; // which are compared, where seeds are swept
    const pair = all.pairs.find(([a, b]) => (a === mine && b === its) || (a === its && b === mine));
    const [first, , between, low, high, adjusted] = pair ?? [its, mine, 0];
    const turned = first === its;
    rates.textContent = filled(rates.dataset.text, { FIRST: points(all.rates[trial]), SECOND: points(all.rates[other]) });
    difference.textContent = filled(difference.dataset.text, { POINTS: points(turned ? -between : between) });
    if (low !== undefined) {
      const bounds = turned ? { LOW: points(-high), HIGH: points(-low) } : { LOW: points(low), HIGH: points(high) };
      difference.textContent += filled(difference.dataset.interval, bounds);
    }
    p.textContent = adjusted === undefined ? p.dataset.none : `${adjusted.toFixed(4)}: ${adjusted < PROVEN ? p.dataset.yes : p.dataset.no}`;
    const gains = all.ids.map((_, place) => gain(place));
    const [better, worse] = [gains.filter((one) => one > 0).length, gains.filter((one) => one < 0).length];
    counts.textContent = filled(counts.dataset.text, { BETTER: better, WORSE: worse, EQUAL: gains.length - better - worse });
  }

  function show() {
    const shown = list.children.length;
    list.append(...places.slice(shown, shown + AT_ONCE).map(card));
    more.hidden = list.children.length === places.length;
  }

  function card(place) {
    const item = template.content.firstElementChild.cloneNode(true);
    item.querySelector(".source").textContent = [all.ids[place], all.sources[place]].filter(Boolean).join(" · ");
    const audio = item.querySelector("audio");
    const clip = clips.get(all.ids[place]);
    audio.setAttribute("aria-label", filled(audio.getAttribute("aria-label"), { NAME: all.ids[place] }));
    if (clip) audio.src = clip;
    else audio.remove();
    const lines = item.querySelector(".lines");
    lines.lastElementChild.append(...shortened([{ kind: "equal", there: characters[place][0] }], all.texts[place][0]));
    const numbers = [other, trial, all.base, all.recommended].filter((number) => number !== null);
    for (const number of new Set(numbers)) lines.append(...line(place, number));
    const [text, count, adapters] = all.suspects[place] ?? [];
    const [told, said] = item.querySelectorAll(".suspect span");
    told.textContent = filled(told.dataset.text, { COUNT: count, OF: adapters });
    said.append(text || element("em", template.dataset.empty));
    if (count === undefined) item.querySelector(".suspect").remove();
    return item;
  }

  function line(place, number) {
    const name = element("dt", choices[number].textContent);
    if (number === all.recommended) name.append(" ", element("b", template.dataset.recommended, "badge"));
    const found = all.which[place][number];
    const pieces = edits([...characters[place][0]], [...characters[place][found]]);
    const said = element("dd", "");
    said.lang = "";
    said.append(...shortened(pieces, all.texts[place][found]));
    const wrong = errors(place, number).toFixed(1).replace(/\.0$/, "");
    said.append(" ", element("small", filled(template.dataset.errors, { NUMBER: wrong })));
    return [name, said];
  }

  // Pieces as elements; the words that a screen reader needs are there, and are not seen.
  function shortened(pieces, whole) {
    const shown = [];
    let left = MOST_SHOWN;
    let cut = Array.isArray(whole) ? whole[1] : 0;
    for (const { kind, missing, there } of pieces) {
      for (const [name, text, word] of [["del", missing, "missing"], ["ins", there, "added"]]) {
        if (!text || (name === "del" && kind === "equal")) continue;
        const some = [...text].slice(0, Math.max(left, 0)).join("");
        left -= [...text].length;
        if (!some) continue;
        if (kind === "equal") {
          shown.push(some);
          continue;
        }
        const marked = element(name, some, kind);
        marked.prepend(element("span", `${template.dataset[word]} `, "unseen"));
        shown.push(marked);
      }
    }
    if (!shown.length) shown.push(element("em", template.dataset.empty));
    cut += Math.max(-left, 0);
    if (cut) shown.push(" ", element("small", filled(template.dataset.cut, { NUMBER: cut.toLocaleString("en") }), "cut"));
    return shown;
  }

  section.querySelector(".needs").remove();
  more.addEventListener("click", () => {
    const first = list.children.length;
    show();
    list.children[first].tabIndex = -1;
    list.children[first].focus(); // the button may be gone
  });
  keepInAddress(form, choose);
}

document.querySelectorAll("#utterances").forEach(async (section) => {
  compareUtterances(section, await unpacked(section.querySelector("template").dataset.packed));
});
