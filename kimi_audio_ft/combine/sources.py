"""What is combined: the trials of a sweep that are chosen for it, and the texts that each gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kimi_audio_ft import store
from kimi_audio_ft.base import find_adapter
from kimi_audio_ft.config.commands import CombineConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.decoding.transcripts import EvaluationSet, Transcripts, decode
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.inputs import Inputs, on_set
from kimi_audio_ft.scoring import NORMALISATION_VERSION
from kimi_audio_ft.store.usage import note
from kimi_audio_ft.sweep.confirm.unseen import require_same_words, require_unseen
from kimi_audio_ft.sweep.plan import written_config
from multirun_analysis.analysis import Analysis
from multirun_analysis.sweep import Trial

# Trials that are combined, where none are named, and the temperature of their new samples.
MOST, TEMPERATURE = 4, 0.6
_RESCORE = "Run the sweep's command again, which only rescores"


@dataclass(frozen=True)
class Source:
    """Gives texts for every utterance: an adapter under a decoding setting.

    temperature, samples: in place of the trial's own decoding; None: as the trial decodes. mean: folder of an adapter
    that decodes in place of the trial's. parts: trials whose adapters it is the mean of.
    """

    trial: Trial
    temperature: float | None = None
    samples: int | None = None
    mean: Path | None = None
    parts: tuple[Trial, ...] = ()

    @cached_property
    def config(self) -> TrainConfig:
        config = written_config(self.trial.folder)
        if self.samples is None or self.temperature is None:
            return config
        decoding = replace(config.decoding, text_temperature=self.temperature, repeats=self.samples)
        return replace(config, decoding=decoding)

    def heard(self) -> list[dict[str, str]]:
        """Texts of the evaluation set by id, one dict per repeat: those of the sweep, or decoded now.

        Raises:
            DataError: the sweep decoded another evaluation set, or with other hot words, or lacks some of it.
        """
        if self.samples is None and self.mean is None:
            return hypotheses_of(self.trial)
        require_same_words(self.trial, self.config)
        evaluation = Inputs().evaluation(self.config)
        if evaluation.reference_identity != self.trial.record.get("eval_identity"):
            problem = "has changed since the sweep evaluated it"
            remedy = "Run the sweep again, or set mean=false samples=null"
            raise DataError(evaluation.conversations.called, problem, remedy)
        return [dict(repeat) for repeat in self.decode(evaluation).hypotheses]

    def heard_on(self, manifest: str, inputs: Inputs) -> tuple[EvaluationSet, Transcripts]:
        """Transcripts of the test set, which are decoded now unless the store has them.

        Raises:
            DataError: a trial of which it is made was trained on recordings of it or evaluates them, or that cannot be
                told, as its manifests have changed since.
        """
        for trial in self.parts or (self.trial,):
            require_unseen(trial, written_config(trial.folder), manifest, {}, inputs)
        evaluation = inputs.evaluation(on_set(self.config, manifest))
        return evaluation, self.decode(evaluation)

    def decode(self, evaluation: EvaluationSet) -> Transcripts:
        adapter = find_adapter(str(self.mean or adapter_of(self.trial)))
        assert adapter is not None, "it has a name"
        if self.mean is None:
            adapter = (str(self.trial.record.get("signature")), adapter[1])
        return decode(evaluation, self.config.decoding, self.config.seed, adapter, self.config.trainer)


def adapter_of(trial: Trial) -> Path:
    """Folder of a trial's adapter; DataError: the store has it no more."""
    signature = str(trial.record.get("signature"))
    note([("adapter", signature)])
    folder = store.find("adapter", signature)
    if folder is None:
        problem = f"its adapter {signature} is not in the store any more"
        raise DataError(trial.folder, problem, "Run the sweep again, which trains it, or set mean=false samples=null")
    return folder


def hypotheses_of(trial: Trial) -> list[dict[str, str]]:
    """Texts of a trial's utterances by id, one dict per repeat.

    Raises:
        DataError: it has none, or not all repeats of every utterance.
    """
    found: dict[int, dict[str, str]] = {}
    for row in trial.utterances:
        found.setdefault(int(row.get("repeat") or 0), {})[str(row["id"])] = str(row["hypothesis"] or "")
    repeats = [found[number] for number in sorted(found)]
    if not repeats:
        raise DataError(trial.utterances_path, "has no utterances", _RESCORE)
    if any(one.keys() != repeats[0].keys() for one in repeats):
        raise DataError(trial.utterances_path, "does not have all repeats of every utterance", _RESCORE)
    return repeats


def chosen_trials(analysis: Analysis, config: CombineConfig) -> list[Trial]:
    """The trials to combine, the best first.

    Those that are named; or of the ones that are not ruled out as the best, with all their seeds, one for each adapter.

    Raises:
        ConfigError: a name is that of no finished trial. DataError: a trial has other utterances than the best one, or
            none, or was scored by another version.
    """
    finished = {trial.name: trial for trial in analysis.sweep.finished}
    if config.trials is not None:
        unknown = [name for name in config.trials if name not in finished]
        if unknown:
            rule = f"{', '.join(unknown)} is no finished trial of this sweep"
            raise ConfigError("trials", config.trials, rule, f"There are {', '.join(finished)}")
        found = [finished[name] for name in config.trials]
    else:
        best = [analysis.statistics.choice, *analysis.statistics.best_group]
        settings = dict.fromkeys(analysis.setting_of[trial] for trial in best if not trial.is_base)
        by_adapter: dict[Any, Trial] = {}
        for setting in settings:
            for trial in setting.trials:
                by_adapter.setdefault(trial.record.get("signature"), trial)
        found = list(by_adapter.values())[: config.most or MOST]
    ordered = sorted(found, key=lambda trial: trial.rate)
    _require_alike(ordered)
    return ordered


def _require_alike(trials: Sequence[Trial]) -> None:
    for trial in trials:
        version = trial.record.get("normalisation_version")
        if version != NORMALISATION_VERSION:
            problem = f"was scored by version {version} of the normalisation, not {NORMALISATION_VERSION}"
            raise DataError(trial.folder / "scores.json", problem, _RESCORE)
        if hypotheses_of(trial)[0].keys() != hypotheses_of(trials[0])[0].keys():
            problem = f"does not have the utterances of trial {trials[0].name}"
            raise DataError(trial.utterances_path, problem, "Name trials of one evaluation set (trials=[...])")
