"""Checks that the rungs compute the same losses and texts."""

from __future__ import annotations

from typing import Any

from experiments.sweep_ladder.sweep import losses_of, texts_of
from experiments.sweep_ladder.workload import Workload


def reference_of(found: dict[str, Any]) -> str | None:
    """Name of the measured sweep with the most adapters, with which everything is compared."""
    sweeps = [name for name in found if name.startswith("sweep ")]
    return max(sweeps, key=lambda name: int(found[name]["adapters"]), default=None)


def against_sweep(work: Workload, child: dict[str, Any], sweep: dict[str, Any]) -> dict[str, Any]:
    """A child's losses and texts beside those of the same trial in a real sweep.

    Returns:
        ``loss_difference``: the largest one of a step. ``equal_texts`` and ``texts``: over all temperatures.
    """
    trained = [f"lora.r={work.ranks[-1]}", f"optim.lr={work.rates[0]:g}"]
    names = {f"{value:g}": name_of(sweep, [*trained, f"text_temperature={value:g}"]) for value in work.temperatures}
    whole = losses_of(sweep, next(iter(names.values())))
    differences = [abs(mine - theirs) for mine, theirs in zip(child["losses"], whole, strict=False)]
    pairs = []
    for value, texts in child.get("texts", {}).items():
        others = texts_of(sweep, names[value])
        pairs += [(text, others[key]) for key, text in texts.items()]
    return {
        "loss_difference": max(differences),
        "equal_texts": sum(mine == other for mine, other in pairs),
        "texts": len(pairs),
    }


def name_of(sweep: dict[str, Any], settings: list[str]) -> str:
    """The trial of a sweep that has these settings."""
    wanted = [(setting.split("=")[0].split(".")[-1], setting.split("=")[1]) for setting in settings]
    for name in sweep["trials"]:
        own = {part.split("=")[0].split(".")[-1]: part.split("=")[1] for part in name.split(",")}
        if all(key in own and float(own[key]) == float(value) for key, value in wanted):
            return str(name)
    raise AssertionError(f"no trial {settings} in {list(sweep['trials'])}")


def equal_sweeps(one: dict[str, Any], other: dict[str, Any]) -> tuple[int, int, float]:
    """Trials that two sweeps share: how many have the same CER, of how many; the largest difference of final losses."""
    ours, theirs = ({_setting(name): name for name in sweep["cer"]} for sweep in (one, other))
    shared = [(ours[setting], theirs[setting]) for setting in sorted(ours.keys() & theirs.keys())]
    same = sum(one["cer"][mine] == other["cer"][its] for mine, its in shared)
    return same, len(shared), max(abs(one["val_loss"][mine] - other["val_loss"][its]) for mine, its in shared)


def _setting(name: str) -> str:
    """A trial's name without the size of decoding batches, on which no text depends."""
    return ",".join(part for part in name.split(",") if not part.startswith("decoding.batch_size="))
