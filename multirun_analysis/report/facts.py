"""Facts below the leaderboard: how to repeat a sweep, what it cost, and how the configs of two trials differ."""

from __future__ import annotations

import platform
import re
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from yaml import YAMLError

from kimi_audio_ft.files import parse_yaml
from kimi_audio_ft.store.signature import flatten
from kimi_audio_ft.sweep_folder import hydras_folder
from kimi_audio_ft.text import duration
from multirun_analysis.analysis import Analysis
from multirun_analysis.checks import OPTIONS, option_of, version_of
from multirun_analysis.compare import Comparison
from multirun_analysis.messages import Messages
from multirun_analysis.params import distinct, identity
from multirun_analysis.sweep import Trial
from multirun_analysis.words import show

PACKAGES = ("kimi-audio-ft", "torch", "transformers", "peft", "lightning", "hydra-core", "vl-convert-python")

Facts = list[tuple[str, str]]  # a heading and its text


def sweep_facts(analysis: Analysis, say: Messages) -> Facts:
    """The command, the data, the model and the software."""
    sweep, on, recordings = analysis.sweep, analysis.reference_set, analysis.statistics.recordings
    counts = {"references": show(on["num_references"]), "chars": show(on["num_reference_chars"])}
    references = say("facts.recorded" if recordings else "facts.references_value", recordings=recordings, **counts)
    return [
        (say("facts.sweep"), str(sweep.folder.resolve())),
        (say("facts.command"), sweep.command or say("facts.no_command")),
        (say("facts.eval_manifest"), show(on["eval_manifest"])),
        (say("facts.references"), references),
        (say("facts.eval_identity"), show(on["eval_identity"])),
        (say("facts.normalisation"), show(version_of(analysis.best.trial) or say("facts.unstated"))),
        (say("facts.scoring"), _scoring(analysis.best.trial, say)),
        (say("facts.model"), _all(sweep.finished, "model")),
        (say("facts.git_commit"), _all(sweep.finished, "git_commit")),
        (say("facts.environment"), _environments(sweep.finished, say)),
        (say("facts.versions"), _versions()),
    ]


def cost_facts(comparison: Comparison, say: Messages) -> Facts:
    """Times as recorded; what nobody recorded is left out."""
    sweep, trained = comparison.sweep, comparison.train_seconds
    time = duration(comparison.fitting_seconds)
    facts = [
        (say("cost.training"), say("cost.training_value", n=len(trained), time=time) if trained else say("cost.none"))
    ]
    if trained and sweep.fitting_seconds is not None:
        facts.append((say("cost.alone"), duration(sum(trained))))
    stored = comparison.stored_seconds
    if stored:
        facts.append((say("cost.stored"), say("cost.training_value", n=len(stored), time=duration(sum(stored)))))
    decoded = [seconds for trial in sweep.finished if (seconds := trial.record.get("decode_seconds")) is not None]
    if decoded:
        facts.append((say("cost.decoding"), say("cost.decoding_value", n=len(decoded), time=duration(sum(decoded)))))
        hours = f"{(sum(trained) + sum(stored) + sum(decoded)) / 3600:.2f}"
        facts.append((say("cost.device_hours"), say("cost.device_hours_value", hours=hours)))
    # Of each adapter the further trials, and the time of its training, in this sweep or an earlier one.
    further = [
        (len(adapter.trials) - 1, max(trial.record.get("train_seconds") or 0.0 for trial in adapter.trials))
        for adapter in comparison.adapters
    ]
    saved = sum(number * seconds for number, seconds in further)
    if saved:
        number = sum(number for number, seconds in further if seconds)
        facts.append((say("cost.saved"), say("cost.saved_value", n=number, time=duration(saved))))
    return facts


def _scoring(trial: Trial, say: Messages) -> str:
    """The options of all trials, which are scored alike; a file's words are counted."""
    told = []
    for name in OPTIONS:
        value = option_of(trial, name)
        if value is None:
            said = say("facts.unstated")
        elif name in ("terms", "names"):
            said = say("facts.words", n=len(value))
        else:
            said = show(value)
        told.append(f"scoring.{name}: {said}")
    return say("list.comma").join(told)


def _environments(trials: list[Trial], say: Messages) -> str:
    """Where the trials' environments differ, each value with the number of trials that have it."""
    recorded = [flatten(made) for trial in trials if isinstance(made := trial.record.get("environment"), dict)]
    told = []
    for key in dict.fromkeys(key for facts in recorded for key in facts):
        values = Counter(show(facts[key]) for facts in recorded if facts.get(key) is not None)
        if len(values) > 1:
            told.append(f"{key}: " + say("list.comma").join(f"{value} ({n})" for value, n in values.items()))
    return "; ".join(told) or say("facts.alike" if recorded else "facts.unstated")


def _all(trials: list[Trial], key: str) -> str:
    return ", ".join(show(value) for value in distinct([trial.record.get(key) for trial in trials]))


def _versions() -> str:
    """Of installed packages, by their metadata: nothing is imported for it."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)


def config_differences(trial: Trial, other: Trial) -> list[tuple[str, Any, Any]]:
    """Options that differ and both values (None where there is none), in the order of ``trial``'s config."""
    here, there = flat_config(trial), flat_config(other)
    values = {key: (here.get(key), there.get(key)) for key in [*here, *there]}
    return [(key, *both) for key, both in values.items() if identity(both[0]) != identity(both[1])]


def flat_config(trial: Trial) -> dict[str, Any]:
    """The whole config by dotted keys, as Hydra wrote it; the recorded parameters where it wrote none (or half)."""
    path = hydras_folder(trial.folder) / "config.yaml"
    found: dict[str, Any] = {}
    with suppress(OSError, UnicodeDecodeError, YAMLError):
        for section in _SECTIONS.split(path.read_text(encoding="utf-8")):
            found |= _options(section)
    return found | trial.params


_SECTIONS = re.compile(r"^(?=[^\s#-])", re.MULTILINE)  # begin where a line is not indented


@lru_cache(maxsize=1000)
def _options(section: str) -> dict[str, Any]:
    """Cached, as trials of a sweep differ in few sections of their configs; callers must not change it."""
    parsed = parse_yaml(section)
    return flatten(parsed) if isinstance(parsed, dict) else {}
