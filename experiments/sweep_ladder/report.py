"""The ladder as a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from experiments.sweep_ladder.checks import against_sweep, equal_sweeps
from experiments.sweep_ladder.rungs import ASIDE, LADDER, PACKS, SINGLE, Costs
from experiments.sweep_ladder.seconds import Seconds
from experiments.sweep_ladder.workload import Workload

TRIALS = (1, 2, 4, 8, 16, 32, 64)
_NAMES = SINGLE | {"5": "together"}
_COLOURS = ("#b23a48", "#d98324", "#8a8d91", "#5b8e7d", "#1d4e89")
_SHOWN = (0, 2, 3, 5, 7)


def table(work: Workload, costs: Costs, clock: str) -> str:
    """One row a rung: seconds of the whole sweep, times the first rung, times the one before, what was checked."""
    lines = [f"| rung | {clock} s of {work.trials} trials | times 0 | times the rung before | measured on | check |"]
    lines.append("|---|---:|---:|---:|---|---|")
    first = costs.of(LADDER[0])
    before: Seconds | None = None
    for rung in (*LADDER, *ASIDE):
        cost = costs.of(rung)
        if cost is None:
            continue
        own = cost.of(clock)
        to_first = f"{first.of(clock) / own:.1f}" if first else ""
        to_before = f"{before.of(clock) / own:.2f}" if before and rung in LADDER else ""
        numbers = f"{own:,.0f} | {to_first} | {to_before}"
        lines.append(f"| {rung} | {numbers} | {costs.measured_on(rung)} | {_check(work, costs, rung)} |")
        before = cost if rung in LADDER else before
    return "\n".join(lines)


def _check(work: Workload, costs: Costs, rung: str) -> str:
    """In words, what equals what."""
    number, found = rung.split(":")[0], costs.found
    sweep = found.get("sweep 7")
    if sweep is None:
        return ""
    if number in ("6", "8") and f"sweep {number}" in found:
        same, shared, loss = equal_sweeps(found[f"sweep {number}"], sweep)
        return f"{same} of {shared} CERs as 7's, final losses within {loss:.1e}"
    if number == "7":
        return f"best CER {100 * min(sweep['cer'].values()):.1f} %"
    if number not in _NAMES:
        return ""
    checked = against_sweep(work, found[_NAMES[number]], sweep)
    texts = f"{checked['equal_texts']} of {checked['texts']} texts equal"
    return f"losses within {checked['loss_difference']:.1e} of 7's, {texts}"


def parts_table(found: dict[str, Any], clock: str) -> str:
    """Measured seconds of each part, from which the rungs are computed."""
    lines = [f"| {clock} seconds | start | optimizer step | validation | decoding an utterance once |"]
    lines.append("|---|---:|---:|---:|---:|")
    for number, name in _NAMES.items():
        if name in found:
            values = [found[name][part][clock] for part in ("start", "step", "validation", "utterance")]
            lines.append(f"| as rung {number} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    return "\n".join(lines)


def packs_table(found: dict[str, Any], clock: str) -> str:
    """An adapter's share of a pack's step: where packing helps and where it does not."""
    lines = [f"| pack | {clock} seconds of a step, per adapter | against alone |", "|---|---:|---:|"]
    alone = found.get("pack 1 alone")
    for name in PACKS:
        one = found.get(f"pack {name}")
        if one and alone:
            own = one["step"][clock]
            lines.append(f"| {name} | {own:.3f} | {alone['step'][clock] / own:.2f} times |")
    return "\n".join(lines) if alone else ""


def picture(work: Workload, costs: Costs, clock: str, path: Path) -> None:
    """Cost against the number of trials, 1 to 64, as a PNG."""
    points = []
    for rung in (LADDER[place] for place in _SHOWN):
        for trials in TRIALS:
            cost = costs.of(rung, trials)
            if cost is not None:
                points.append({"rung": rung, "trials": trials, "seconds": cost.of(clock), "last": trials == TRIALS[-1]})
    if not points:
        return
    order = list(dict.fromkeys(str(point["rung"]) for point in points))
    colour = alt.Color("rung:N", sort=order, scale=alt.Scale(domain=order, range=list(_COLOURS)), legend=None)
    title = "seconds on the wall" if clock == "wall" else "seconds of the processor"
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("trials:Q", title="trials (four temperatures of each adapter)", scale=alt.Scale(type="log", base=2),
                axis=alt.Axis(values=list(TRIALS), grid=False, format="d")),
        y=alt.Y("seconds:Q", title=title, scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(format="~s", gridOpacity=0.4)),
        color=colour,
    )  # fmt: skip
    words = base.transform_filter("datum.last").mark_text(align="left", dx=8, fontSize=11).encode(text="rung:N")
    lines = base.mark_line(strokeWidth=2) + base.mark_point(filled=True, size=36, opacity=1) + words
    chart = lines.properties(width=460, height=340, padding={"left": 8, "top": 8, "right": 8, "bottom": 8})
    spec = chart.configure_view(stroke=None).to_dict()
    path.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))
