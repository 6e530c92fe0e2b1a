"""The report's answer to "what now?": use the adapter, sweep further, or record more, with commands to copy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kimi_audio_ft.config.train import SEEDS, DecodingConfig, LoraConfig, OptimConfig, TrainerConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.scoring.intervals import FEW_RECORDINGS
from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.scales import LOG_BASES, MOST_LEVELS
from multirun_analysis.learning import SIZE_PARAM
from multirun_analysis.messages import Messages
from multirun_analysis.params import distinct, value_of
from multirun_analysis.report.commands import (
    adapter_of,
    combine_command,
    evaluate_command,
    further_command,
    is_trained,
    merge_command,
    transcribe_command,
    with_base_command,
)
from multirun_analysis.report.facts import flat_config
from multirun_analysis.report.stored_combinations import combinations_shown
from multirun_analysis.statistics.results import Needed, Reason
from multirun_analysis.sweep import Sweep, Trial
from multirun_analysis.words import MOST_RECORDED, MOST_SEEDS, show

# Further values lie at most so many times beyond the best one: a tenfold learning rate is far enough for one sweep.
REACH = 10
# A validation loss still falls when the last quarter of the training has lowered it by more than 2 %.
LAST_PART, STILL_FALLS = 0.75, 0.98
SAMPLES = 16  # of which MBR is proposed: what it gains grows slowly beyond
_LENGTHS = ("trainer.max_epochs", "trainer.max_steps")
_OPTIONS: dict[str, type] = {
    "lora": LoraConfig,
    "optim": OptimConfig,
    "decoding": DecodingConfig,
    "trainer": TrainerConfig,
}


@dataclass(frozen=True)
class NextStep:
    """What to do and why, and the commands that do it, one after the other."""

    said: str
    commands: list[str]


def next_steps(analysis: Analysis, say: Messages) -> list[NextStep]:
    """The first thing to do comes first."""
    taken = analysis.statistics.recommended
    has_adapter = not taken.is_base and taken.record.get("signature") != "base"  # ``evaluate -m`` has it as a trial
    found = [_use(taken, analysis, say)] if has_adapter else []
    return [*found, *_prove(analysis, say), *_combine(analysis, say), *_sweep_further(analysis, say)]


def _use(taken: Trial, analysis: Analysis, say: Messages) -> NextStep:
    sweep = analysis.sweep
    commands = [evaluate_command(taken), transcribe_command(taken, sweep), merge_command(taken, sweep)]
    return NextStep(say("next.use", number=taken.name, adapter=adapter_of(taken)), commands)


def _combine(analysis: Analysis, say: Messages) -> list[NextStep]:
    """Where it can be done and has not been: it decodes, so that the sweep does not do it by itself."""
    best = [trial for trial in (analysis.statistics.choice, *analysis.statistics.best_group) if not trial.is_base]
    shown = combinations_shown(analysis)
    is_done = shown is not None and shown.folder is not None
    if analysis.statistics.choice.is_base or is_done or not all(map(_can_sample, best)):
        return []
    return [NextStep(say("next.combine", n=SAMPLES), [combine_command(analysis.sweep, SAMPLES)])]


def _can_sample(trial: Trial) -> bool:
    """Whether it is of a training, has its utterances, and samples that differ."""
    return is_trained(trial) and flat_config(trial).get("decoding.text_top_k") != 1 and bool(trial.utterances)


def _prove(analysis: Analysis, say: Messages) -> list[NextStep]:
    """What it takes to show a gain over the base where none is shown."""
    statistics = analysis.statistics
    gain = statistics.gain
    if gain is not None and gain.shown:
        return []
    if statistics.reason is Reason.TOO_FEW_RECORDINGS:
        return [NextStep(say("next.few", n=statistics.recordings, least=FEW_RECORDINGS), [])]
    if gain is None or gain.interval is None:
        command = with_base_command(analysis.sweep)
        return [NextStep(say("next.base"), [command])] if command else []
    needed = statistics.gain_needed
    if needed is None or needed.recordings is None:
        return [NextStep(say("next.worse"), [])]
    return [_more(needed, needed.recordings, analysis, say)]


def _more(needed: Needed, recordings: int, analysis: Analysis, say: Messages) -> NextStep:
    """More recordings, and more seeds where they are what is lacking."""
    have, utterances, seeds = analysis.statistics.recordings, analysis.statistics.utterances, needed.seeds
    recordings = max(recordings, have + (seeds is None))
    asked = math.ceil(recordings * utterances / have)
    if asked > MOST_RECORDED or (seeds or 0) > MOST_SEEDS:
        return NextStep(say("next.never", most=f"{MOST_RECORDED:,}", seeds=show(MOST_SEEDS)), [])
    counts = {"recordings": f"{recordings:,}", "utterances": f"{asked:,}", "have": f"{have:,}"}
    if seeds is None:
        return NextStep(say("next.record", **counts), [])
    trials = analysis.setting_of[needed.first].trials
    command = _further_seeds(trials, seeds, analysis.sweep)
    said = say("next.record_seeds", **counts, seeds=show(seeds), have_seeds=show(len(trials)))
    return NextStep(said, [command] if command else [])


def _further_seeds(trials: Sequence[Trial], number: int, sweep: Sweep) -> str | None:
    """The setting with so many seeds, its own first; None where these are not known."""
    own = sorted({seed for trial in trials if isinstance(seed := value_of(trial, "seed"), int)})
    if len(own) < len(trials):
        return None
    return further_command(trials[0], {"seed": [*own, *range(own[-1] + 1, own[-1] + 1 + number - len(own))]}, sweep)


def _sweep_further(analysis: Analysis, say: Messages) -> list[NextStep]:
    """Around the best trial: values beyond the grid's edge, and a longer training where it still learns."""
    best = analysis.best.trial
    edges, longer = edge_values(analysis), _longer(best)
    changes: dict[str, list[Any]] = {key: [value] for key, value in longer.items()} | edges
    command = further_command(best, changes, analysis.sweep) if changes else None
    if command is None:
        return []
    reasons = [say("next.edge", param=param, value=show(values[0])) for param, values in edges.items()]
    reasons += [say("next.falls")] if longer else []
    return [NextStep(say("next.further", reasons=say.listed(reasons)), [command])]


def edge_values(analysis: Analysis) -> dict[str, list[Any]]:
    """Of each swept number whose best value is the grid's lowest or highest: that value, and those beyond it."""
    if not analysis.is_grid:
        return {}
    swept = [param for param in analysis.naming if param not in (*SEEDS, SIZE_PARAM)]
    tried = [*analysis.sweep.trials, *(trial for _, trial in analysis.sweep.stopped)]  # also what failed or was stopped
    grid = {
        param: distinct([value_of(trial, param) for trial in tried if param in (trial.params | trial.overrides)])
        for param in swept
    }
    found = {
        param: _beyond(param, grid[param], value_of(analysis.best.trial, param))
        for param in swept
        if len(grid[param]) > 1
    }
    return {param: values for param, values in found.items() if len(values) > 1}


def _beyond(param: str, values: list[Any], best: Any) -> list[Any]:
    """``best`` and the next values in the grid's ratio, or its distance where it is no geometric one."""
    is_numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not is_numeric or len(values) > MOST_LEVELS or best not in (values[0], values[-1]):
        return [best]
    near = values[1] if best == values[0] else values[-2]
    if min(values) > 0 and (param in LOG_BASES or _is_geometric(values)):
        further = [best * (best / near), best * (best / near) ** 2]
        further = [value for value in further if best / REACH <= value <= best * REACH] or further[:1]
    else:
        further = [best + (best - near), best + 2 * (best - near)]
    whole = all(isinstance(value, int) for value in values)
    rounded = [round(value) if whole else float(f"{value:.3g}") for value in further]
    return [best, *(value for value in dict.fromkeys(rounded) if value > 0 and _is_valid(param, value))]


def _is_geometric(values: list[Any]) -> bool:
    ratios = [high / low for low, high in pairwise(values)]
    return len(ratios) > 1 and max(ratios) < 1.01 * min(ratios)


def _is_valid(param: str, value: float) -> bool:
    """Whether the option takes the value, as its own check has it."""
    group, _, name = param.partition(".")
    if name not in getattr(_OPTIONS.get(group), "__dataclass_fields__", ()):
        return True
    try:
        _OPTIONS[group](**{name: value})
    except ConfigError:
        return False
    return True


def _longer(best: Trial) -> dict[str, int]:
    """Twice the length of the best adapter's training, where its validation loss still falls at the end."""
    losses = best.losses("val")
    earlier = [row for row in losses if row["step"] <= LAST_PART * losses[-1]["step"]]
    if not earlier or losses[-1]["loss"] > STILL_FALLS * min(row["loss"] for row in earlier):
        return {}
    config = flat_config(best)
    return {key: 2 * length for key in _LENGTHS if isinstance(length := config.get(key), int) and length > 0}
