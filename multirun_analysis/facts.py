"""What one needs to know to trust or to repeat a sweep, and what it cost; pairs of a heading and a text."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from kimi_audio_ft.text import duration
from multirun_analysis.collect import Trial
from multirun_analysis.compare import Adapter, Comparison, distinct
from multirun_analysis.messages import Messages
from multirun_analysis.scored_alike import OPTIONS, option_of, version_of
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
