"""The ladder as a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from experiments.sweep_ladder.checks import against_sweep, equal_sweeps, reference_of
from experiments.sweep_ladder.rungs import ASIDE, LADDER, PACKS, REUSING, SINGLE, SWEEPS, WAYS, Costs
from experiments.sweep_ladder.seconds import Seconds
from experiments.sweep_ladder.workload import Workload

TRIALS = (1, 2, 4, 8, 16, 32, 64)
_NAMES = SINGLE | REUSING | {"5": "together"}
# Rungs of one way of working are measured by the same process.
_MEASURED = {way: number for number, way in reversed(_NAMES.items())}
_COLOURS = ("#b23a48", "#d98324", "#8a8d91", "#5b8e7d", "#1d4e89")
_SHOWN = (LADDER[0], ASIDE[3], LADDER[3], LADDER[5], ASIDE[0])


def table(work: Workload, costs: Costs, clock: str) -> str:
    """One row a rung: seconds of the whole sweep, factors to other rungs, what was measured and checked."""
    factors = "times 0 | 8 is faster, times | times the rung before"
    lines = [f"| rung | {clock} s of {work.trials} trials | {factors} | measured on | check |"]
    lines.append("|---|---:|---:|---:|---:|---|---|")
    first, ours = costs.of(LADDER[0]), costs.of(ASIDE[0])
    before: Seconds | None = None
    for rung in (*LADDER, *ASIDE):
        cost = costs.of(rung)
        if cost is None:
            continue
        own = cost.of(clock)
        to_first = f"{first.of(clock) / own:.1f}" if first else ""
        to_ours = f"{own / ours.of(clock):.1f}" if ours else ""
        to_before = f"{before.of(clock) / own:.2f}" if before and rung in LADDER else ""
        numbers = f"{own:,.0f} | {to_first} | {to_ours} | {to_before}"
        lines.append(f"| {rung} | {numbers} | {costs.measured_on(rung)} | {_check(work, costs, rung)} |")
        before = cost if rung in LADDER else before
    return "\n".join(lines)


def _check(work: Workload, costs: Costs, rung: str) -> str:
    """In words, what equals what."""
    number, found = rung.split(":")[0], costs.found
    reference = reference_of(found)
    if reference is None or number not in (*SWEEPS, *_MEASURED.values()):
        return ""
    sweep = found[reference]
    if reference == f"sweep {number}":
        return f"best CER {100 * min(sweep['cer'].values()):.1f} %"
    its = f"{reference.removeprefix('sweep ')}'s"
    if number in SWEEPS:
        same, shared, loss = equal_sweeps(found[f"sweep {number}"], sweep)
        return f"{same} of {shared} CERs as {its}, final losses within {loss:.1e}"
    checked = against_sweep(work, found[_NAMES[number]], sweep)
    texts = f"{checked['equal_texts']} of {checked['texts']} texts equal"
    return f"losses within {checked['loss_difference']:.1e} of {its}, {texts}"


def parts_table(found: dict[str, Any], clock: str) -> str:
    """Measured seconds of each part, from which the rungs are computed."""
    parts = {
        "start": "start", "step": "optimizer step", "validation": "validation", "load": "load for decoding",
        "utterance": "decoding an utterance once",
    }  # fmt: skip
    lines = [f"| {clock} seconds | " + " | ".join(parts.values()) + " |", "|---|" + "---:|" * len(parts)]
    for name, number in _MEASURED.items():
        if name in found:
            values = [f"{found[name][part][clock]:.3f}" for part in parts]
            lines.append(f"| as rung {number} | " + " | ".join(values) + " |")
    for part, how in (("lean", "one process"), ("encoding", "two processes side by side, a thread each")):
        if part in found:
            share = WAYS[part].beside if clock == "wall" else 1
            lines.append(f"\nFeatures of the corpus by {how}: {found[part]['features'][clock] / share:.0f} s.")
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
    for rung in _SHOWN:
        for trials in TRIALS:
            cost = costs.of(rung, trials)
            if cost is not None:
                points.append({"rung": rung, "trials": trials, "seconds": cost.of(clock), "last": trials == TRIALS[-1]})
    if not points:
        return
    order = list(dict.fromkeys(str(point["rung"]) for point in points))
    colour = alt.Color("rung:N", sort=order, scale=alt.Scale(domain=order, range=list(_COLOURS)), legend=None)
    title = "wall-clock seconds" if clock == "wall" else "processor seconds"
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
