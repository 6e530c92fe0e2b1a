"""How values, settings and results are put into words; the same in the terminal, the tables and the report."""

from __future__ import annotations

from typing import Any

from multirun_analysis.collect import Trial
from multirun_analysis.compare import Comparison, is_of_base, value_of

BASE_NAME = "base (no adapter)"
PARAM_NAMES = {
    "lora.r": "LoRA rank",
    "lora.lora_alpha": "LoRA alpha",
    "optim.lr": "learning rate",
    "decoding.text_temperature": "text temperature",
    "decoding.text_top_k": "top-k",
    "prompt": "prompt",
    "data.prompt": "prompt",
    "augment": "augmentation",
    "data.train_subset": "training conversations",
    "data.train_subset_seed": "seed of the training subset",
}

# What null stands for.
OPEN_VALUES = {"data.train_subset": "all", "data.prompt": "the manifest's"}


def param_name(param: str) -> str:
    """A parameter's name in plain words; its config key when there is none."""
    return PARAM_NAMES.get(param, param)


def short_key(param: str) -> str:
    """The config key without the ``decoding.text_`` or ``data.`` that says nothing here."""
    return param.removeprefix("decoding.").removeprefix("text_").removeprefix("data.")


def show(value: Any) -> str:
    """A parameter's value as one would type it: 5e-5, 0.0, true, [a, b]."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            mantissa, _, exponent = f"{value:e}".partition("e")
            return f"{float(mantissa):g}e{int(exponent)}"
        return f"{value:.1f}" if value.is_integer() else f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    return str(value)


def shown(param: str, value: Any) -> str:
    """A parameter's value; where it was left open, what that means."""
    return OPEN_VALUES[param] if value is None and param in OPEN_VALUES else show(value)


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a percentage; a dash when unknown."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """A length of time, to the precision one cares for; a dash when unknown."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def setting(trial: Trial, params: list[str]) -> str:
    """The values that tell ``trial`` from its siblings, for example ``lora.r=8 optim.lr=0.001 temperature=0.3``."""
    return " ".join(f"{short_key(param)}={shown(param, value_of(trial, param))}" for param in params)


def trial_title(trial: Trial, swept: list[str]) -> str:
    """A trial or a base named by what differs from its siblings."""
    if not trial.is_base:
        return setting(trial, swept) or trial.label
    decoding = setting(trial, [param for param in swept if is_of_base(param)])
    return f"{BASE_NAME} {decoding}".strip()


def training_time(trial: Trial) -> str:
    """What the adapter cost this trial: a duration, or that it came from the store."""
    if trial.is_base:
        return "–"
    return "reused" if trial.record.get("train_reused") else duration(trial.record.get("train_seconds"))


def headline(comparison: Comparison) -> str:
    """The sweep's result in one sentence."""
    best = comparison.best
    name = setting(best.trial, comparison.swept)
    said = f"{'Best: ' + name if name else 'One setting: ' + best.trial.label}: CER {percent(best.trial.cer)}"
    if best.base is None:
        return f"{said}. The zero-shot base was not scored under this decoding, so the gain over it is unknown."
    return f"{said}, base {percent(best.base.cer)}, {_gain_in_words(best.gain)}."


def _gain_in_words(gain: float | None) -> str:
    if not gain:
        return "no change"
    return f"a relative {'reduction' if gain > 0 else 'increase'} of {abs(gain):.0%}".replace("%", " %")


def effort(comparison: Comparison) -> str:
    """How many trials and adapters there are, what the training took, and what sharing adapters saved."""
    sweep = comparison.sweep
    parts = [_count(len(sweep.finished), "trial") + " finished"]
    parts += [f"{len(sweep.failed)} failed"] if sweep.failed else []
    parts += [f"{len(sweep.unfinished)} unfinished"] if sweep.unfinished else []
    adapters = comparison.adapters
    trained = [adapter.train_seconds for adapter in adapters if adapter.train_seconds is not None]
    said = f"{', '.join(parts)}; {_count(len(adapters), 'adapter')}"
    spent = sum(trained) if sweep.fitting_seconds is None else sweep.fitting_seconds
    reused = len(adapters) - len(trained)
    said += f", {len(trained)} trained in {duration(spent)}" if trained else ", all from the store"
    said += f", {reused} from the store" if trained and reused else ""
    if len(trained) < len(sweep.finished):
        said += f"; without sharing there would have been {len(sweep.finished)} trainings"
    return f"{said}."


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
