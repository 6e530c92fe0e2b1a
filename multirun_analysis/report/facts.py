"""What one needs to know to trust or to repeat a sweep, and what it cost; pairs of a heading and a text."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from yaml import YAMLError

from kimi_audio_ft.files import parse_yaml
from kimi_audio_ft.store.signature import flatten
from kimi_audio_ft.text import duration
from multirun_analysis.checks import OPTIONS, option_of, version_of
from multirun_analysis.compare import Adapter, Comparison
from multirun_analysis.messages import Messages
from multirun_analysis.params import distinct, identity
from multirun_analysis.sweep import Trial
from multirun_analysis.words import show

PACKAGES = ("kimi-audio-ft", "torch", "transformers", "peft", "lightning", "hydra-core", "altair", "vl-convert-python")

Facts = list[tuple[str, str]]


def sweep_facts(comparison: Comparison, say: Messages) -> Facts:
    """The command, the data, the model and the software."""
    sweep, on = comparison.sweep, comparison.reference_set
    return [
        (say("facts.sweep"), str(sweep.folder.resolve())),
        (say("facts.command"), sweep.command or say("facts.no_command")),
        (say("facts.eval_manifest"), show(on["eval_manifest"])),
        (say("facts.references"), _references(comparison, say)),
        (say("facts.eval_identity"), show(on["eval_identity"])),
        (say("facts.normalisation"), show(version_of(comparison.best.trial) or say("facts.unstated"))),
        (say("facts.scoring"), _scoring(comparison.best.trial, say)),
        (say("facts.model"), _all(sweep.finished, "model")),
        (say("facts.git_commit"), _all(sweep.finished, "git_commit")),
        (say("facts.versions"), _versions()),
    ]


def cost_facts(comparison: Comparison, say: Messages) -> Facts:
    """Times as recorded; what nobody recorded is left out."""
    sweep, adapters = comparison.sweep, comparison.adapters
    trained = [adapter.train_seconds for adapter in adapters if adapter.train_seconds is not None]
    spent = sum(trained) if sweep.fitting_seconds is None else sweep.fitting_seconds
    facts = [(say("cost.training"), say("cost.training_value", n=len(trained), time=duration(spent)))]
    if not trained:
        facts = [(say("cost.training"), say("cost.none"))]
    elif sweep.fitting_seconds is not None:
        facts.append((say("cost.alone"), duration(sum(trained))))
    decoded = [seconds for trial in sweep.finished if (seconds := trial.record.get("decode_seconds")) is not None]
    if decoded:
        facts.append((say("cost.decoding"), say("cost.decoding_value", n=len(decoded), time=duration(sum(decoded)))))
        hours = f"{(sum(trained) + sum(decoded)) / 3600:.2f}"
        facts.append((say("cost.device_hours"), say("cost.device_hours_value", hours=hours)))
    further = [(len(adapter.trials) - 1, _full_time(adapter)) for adapter in adapters if _full_time(adapter)]
    saved = sum(number * seconds for number, seconds in further)
    if saved:
        number = sum(number for number, _ in further)
        facts.append((say("cost.saved"), say("cost.saved_value", n=number, time=duration(saved))))
    return facts


def _full_time(adapter: Adapter) -> float:
    """What training it took, whenever that was."""
    return max((trial.record.get("train_seconds") or 0.0 for trial in adapter.trials), default=0.0)


def _references(comparison: Comparison, say: Messages) -> str:
    on, recordings = comparison.reference_set, comparison.statistics.recordings
    counts = {"references": show(on["num_references"]), "chars": show(on["num_reference_chars"])}
    return (
        say("facts.recorded", recordings=recordings, **counts)
        if recordings
        else say("facts.references_value", **counts)
    )


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


def _all(trials: list[Trial], key: str) -> str:
    return ", ".join(show(value) for value in distinct([trial.record.get(key) for trial in trials]))


def _versions() -> str:
    """Of installed packages, by their metadata: nothing is imported for it."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


# --- Which options of a trial have another value than the same options of another trial.

# Hydra writes block style: a line that begins with a letter begins a section.
NEXT_SECTION = re.compile(r"\n(?=\w)")


@dataclass(frozen=True)
class Difference:
    """One option; None on the side that does not have it."""

    key: str
    here: Any
    there: Any


def config_differences(trial: Trial, other: Trial) -> list[Difference]:
    """Options that differ, in the order of ``trial``'s config."""
    here, there = flat_config(trial), flat_config(other)
    keys = dict.fromkeys([*here, *there])
    return [
        Difference(key, here.get(key), there.get(key))
        for key in keys
        if identity(here.get(key)) != identity(there.get(key))
    ]


def flat_config(trial: Trial) -> dict[str, Any]:
    """The whole config by dotted keys, as Hydra wrote it; the recorded parameters where it wrote none (or half)."""
    path = trial.folder / ".hydra" / "config.yaml"
    try:
        return _written(path.read_text(encoding="utf-8")) | trial.params
    except (OSError, UnicodeDecodeError, YAMLError):
        return dict(trial.params)


def _written(config: str) -> dict[str, Any]:
    """A config file's options, read in parts: the trials of a sweep share most top-level sections, word for word."""
    options: dict[str, Any] = {}
    for section in NEXT_SECTION.split(config):
        options |= _section(section)
    return options


@lru_cache(maxsize=10_000)
def _section(section: str) -> dict[str, Any]:
    """Not to be changed: others get the same one."""
    parsed = parse_yaml(section)
    return flatten(parsed) if isinstance(parsed, dict) else {}
