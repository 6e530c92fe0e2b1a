"""What is combined: the trials of a sweep that are chosen for it, and the texts that each gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from kimi_audio_ft import store
from kimi_audio_ft.base import find_adapter
from kimi_audio_ft.config.commands import CombineConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.decoding.request import Answer, Answers
from kimi_audio_ft.decoding.transcripts import EvaluationSet
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.inputs import Inputs, on_set
from kimi_audio_ft.scoring import NORMALISATION_VERSION
from kimi_audio_ft.store.usage import note
from kimi_audio_ft.sweep.confirm.decoding import Asked
from kimi_audio_ft.sweep.confirm.unseen import require_same_words, require_unseen
from kimi_audio_ft.sweep.plan import written_config
from multirun_analysis.analysis import Analysis
from multirun_analysis.records import Record
from multirun_analysis.report.stored_combinations import MOST, repeats_of, trials_to_combine
from multirun_analysis.sweep import Trial

# Of new samples.
TEMPERATURE = 0.6


@dataclass(frozen=True)
class Source:
    """Gives texts for every utterance: an adapter under a decoding setting.

    temperature, samples: in place of the trial's own decoding; None: as the trial decodes. mean: folder of an adapter
    that decodes in place of the trial's, of this rank. parts: trials whose adapters it is the mean of.
    """

    trial: Trial
    temperature: float | None = None
    samples: int | None = None
    mean: Path | None = None
    rank: int | None = None
    parts: tuple[Trial, ...] = ()

    @cached_property
    def config(self) -> TrainConfig:
        """The trial's, with this decoding; of a mean its rank, for which vLLM makes room."""
        config = written_config(self.trial.folder)
        if self.rank is not None:
            # The trial's start of the update may not go with this rank: orthogonal needs an even one.
            config = replace(config, lora=replace(config.lora, r=self.rank, init_lora_weights="default"))
        if self.samples is None or self.temperature is None:
            return config
        decoding = replace(config.decoding, text_temperature=self.temperature, repeats=self.samples)
        return replace(config, decoding=decoding)

    @property
    def is_decoded(self) -> bool:
        """Whether the sweep has its texts."""
        return self.samples is None and self.mean is None

    def asked(self, inputs: Inputs) -> Asked:
        """Its texts of the evaluation set.

        Raises:
            DataError: the sweep decoded another evaluation set, or with other hot words, or lacks some of it.
        """
        require_same_words(self.trial, self.config)
        evaluation = inputs.evaluation(self.config)
        if evaluation.reference_identity != self.trial.record.get("eval_identity"):
            problem = "has changed since the sweep evaluated it"
            remedy = "Run the sweep again, or set mean=false samples=null"
            raise DataError(evaluation.conversations.called, problem, remedy)
        return self._on(evaluation, self.config)

    def asked_on(self, manifest: str, inputs: Inputs) -> Asked:
        """Its texts of the test set.

        Raises:
            DataError: a trial of which it is made was trained on recordings of it or evaluates them, or that cannot be
                told, as its manifests have changed since.
        """
        for trial in self.parts or (self.trial,):
            require_unseen(trial, written_config(trial.folder), manifest, {}, inputs)
        config = on_set(self.config, manifest)
        return self._on(inputs.evaluation(config), config)

    def _on(self, evaluation: EvaluationSet, config: TrainConfig) -> Asked:
        if self.mean is None:
            adapter_of(self.trial)
            return Asked(str(self.trial.record.get("signature")), f"trial {self.trial.name}", config, evaluation)
        adapter = find_adapter(str(self.mean))
        assert adapter is not None, "it has a name"
        return Asked(adapter[0], "the mean of adapters", config, evaluation, adapter[1])


def adapter_of(trial: Trial) -> Path:
    """Folder of a trial's adapter; DataError: the store has it no more."""
    signature = str(trial.record.get("signature"))
    note([("adapter", signature)])
    folder = store.find("adapter", signature)
    if folder is None:
        problem = f"its adapter {signature} is not in the store any more"
        raise DataError(trial.folder, problem, "Run the sweep again, which trains it, or set mean=false samples=null")
    return folder


def chosen_trials(analysis: Analysis, config: CombineConfig) -> list[Trial]:
    """The trials to combine, the best first: those that are named, or ``trials_to_combine``.

    Raises:
        ConfigError: a name is that of no finished trial.
    """
    if config.trials is None:
        return trials_to_combine(analysis, config.most or MOST)
    finished = {trial.name: trial for trial in analysis.sweep.finished}
    unknown = [name for name in config.trials if name not in finished]
    if unknown:
        rule = f"{', '.join(unknown)} is no finished trial of this sweep"
        raise ConfigError("trials", config.trials, rule, f"There are {', '.join(finished)}")
    return sorted((finished[name] for name in config.trials), key=lambda trial: trial.rate)


def texts_of(trials: Sequence[Trial]) -> dict[Trial, Answers]:
    """Texts of each trial's utterances, which are the same.

    Raises:
        DataError: a trial has other utterances than the first, or none, or another version scored it.
    """
    found: dict[Trial, Answers] = {}
    for trial in trials:
        version = trial.record.get("normalisation_version")
        if version != NORMALISATION_VERSION:
            problem = f"was scored by version {version} of the normalisation, not {NORMALISATION_VERSION}"
            remedy = "Run the sweep's command again, which only rescores"
            raise DataError(trial.folder / "scores.json", problem, remedy)
        found[trial] = [{key: _answer(row) for key, row in repeat.items()} for repeat in repeats_of(trial)]
        if found[trial][0].keys() != found[trials[0]][0].keys():
            problem = f"does not have the utterances of trial {trials[0].name}"
            raise DataError(trial.utterances_path, problem, "Name trials of one evaluation set (trials=[...])")
    return found


def _answer(row: Record) -> Answer:
    return Answer(str(row["hypothesis"] or ""), is_cut=bool(row.get("truncated")))
