"""What a sweep has to make: trainings and decodings that the store lacks, counted from its jobs and manifests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from kimi_audio_ft import store
from kimi_audio_ft.config.train import AugmentConfig, TrainConfig
from kimi_audio_ft.features.perturbation import UNCHANGED, Perturbations
from kimi_audio_ft.features.workload import find_wanted
from kimi_audio_ft.sweep.plan import Unit, grouped, pack_key
from kimi_audio_ft.trial import Trial

if TYPE_CHECKING:
    from kimi_audio_ft.sweep.launch import Job


@dataclass(frozen=True)
class Training:
    """Adapters that share their data and steps; sizes are means over the steps, of one adapter, without padding.

    validated: positions of all validations of one adapter.
    """

    config: TrainConfig
    adapters: int
    steps: int
    positions: float
    answers: float
    validated: int


@dataclass(frozen=True)
class Decoding:
    """One adapter's transcripts, or the base's, that are decoded together.

    utterances: of the evaluation set. prompt, answer: mean positions of a prompt and of an answer.
    """

    config: TrainConfig
    transcripts: int
    utterances: int
    prompt: float
    answer: float


@dataclass(frozen=True)
class Workload:
    """A sweep's work.

    trials: of them, scored: need nothing but scoring; invalid: have no valid config, each with its error.
    stored_adapters, stored_transcripts: that the store has already. encoded: recordings whose features it lacks, of so
    many seconds and bytes.
    """

    trials: int
    scored: int
    invalid: list[str]
    stored_adapters: int
    stored_transcripts: int
    trainings: list[Training]
    decodings: list[Decoding]
    recordings: int
    recording_seconds: float
    feature_bytes: int

    @property
    def configs(self) -> list[TrainConfig]:
        """Of all that is to be made."""
        return [one.config for one in self.trainings] + [one.config for one in self.decodings]

    @property
    def adapters(self) -> int:
        """That are to be trained."""
        return sum(one.adapters for one in self.trainings)

    @property
    def transcripts(self) -> int:
        """That are to be decoded."""
        return sum(one.transcripts for one in self.decodings)

    @property
    def steps(self) -> int:
        return sum(one.adapters * one.steps for one in self.trainings)


def workload_of(jobs: Sequence[Job], units: Sequence[Unit], untrained: set[str]) -> Workload:
    """The work of a launch's jobs, given what ``missing_units`` has found."""
    trials = {job.key: job.trial for job in jobs if job.trial is not None and job.key is not None}
    plans = [job.plan for job in jobs if job.plan is not None]
    wanted = {name for plan in plans for name in (*plan.transcripts, *plan.base_transcripts)}
    missing = {name for name in wanted if store.find("transcript", name) is None}
    needed = {unit.key for unit in units}
    scored = [
        plan
        for plan in plans
        if plan.adapter not in needed and not missing & {*plan.transcripts, *plan.base_transcripts}
    ]
    training = [unit for unit in units if unit.key in untrained]
    return Workload(
        len(jobs),
        len(scored),
        [f"{' '.join(job.overrides)}: {job.error}" for job in jobs if job.error is not None],
        len({plan.adapter for plan in plans} - untrained),
        len(wanted - missing),
        [_training(group) for group in grouped(training, lambda unit: pack_key(unit.config))],
        [_decoding(unit, trials, jobs, missing) for unit in units],
        *_features(trials.values()),
    )


def rehearsed(config: TrainConfig) -> TrainConfig:
    """A config for looking at batches: without features, which would be encoded."""
    return replace(config, data=replace(config.data, features="none", augment=AugmentConfig()))


def _training(units: Sequence[Unit]) -> Training:
    config = units[0].config
    data = Trial(rehearsed(config)).data
    data.setup()
    plan, trainer = data.plan, config.trainer
    taken = len(plan.lengths) if plan.mix is None else sum(count for _, count in plan.mix)
    steps = data.num_steps(trainer.max_epochs, trainer.max_steps)
    epoch = len(plan.epoch(0))
    validations = -(-steps // (trainer.val_every or epoch))
    return Training(
        config,
        len(units),
        steps,
        taken * float(plan.lengths.mean()) / epoch,
        taken * float(plan.supervised.mean()) / epoch,
        validations * int(data.eval_set.lengths()[:, 0].sum()),
    )


def _decoding(unit: Unit, trials: Mapping[str, Trial], jobs: Sequence[Job], missing: set[str]) -> Decoding:
    own = {job.plan for job in jobs if job.plan is not None and job.key == unit.key}
    names = {name for plan in own for name in plan.transcripts}
    if unit.key not in trials:  # the base alone
        names = {name for job in jobs if job.plan is not None for name in job.plan.base_transcripts}
    evaluation = next(job.trial for job in jobs if job.trial is not None).inputs.evaluation(unit.config)
    lengths = evaluation.conversations.lengths(evaluation.base.tokenizer)
    answer = float(lengths[:, 1].mean())
    return Decoding(unit.config, len(names & missing), len(lengths), float(lengths[:, 0].mean()) - answer, answer)


def _features(trials: Iterable[Trial]) -> tuple[int, float, int]:
    """Recordings that the store lacks, their seconds, and bytes of what is made of them."""
    recordings, seconds, size = 0, 0.0, 0
    cached = [trial for trial in trials if trial.config.data.features == "cached"]
    for group in grouped(cached, lambda trial: recordings_key(trial.config)):
        trial = group[0]
        encoded = trial.base.encoders().store()
        conversations = trial.inputs.trained_on(trial.config), trial.evaluation.conversations
        for some, forms in zip(
            conversations, (Perturbations.of(trial.config.data.augment).all, [UNCHANGED]), strict=True
        ):
            wanted = find_wanted(encoded, some.parts, tuple(dict.fromkeys(forms)))
            recordings += len(wanted)
            seconds += wanted.seconds
            size += encoded.bytes_for(round(12.5 * wanted.seconds), len(wanted))
    return recordings, seconds, size


def recordings_key(config: TrainConfig) -> str:
    """Equal for trials that read the same recordings, as far as can be told without looking at them."""
    return str([asdict(config.model), asdict(config.data)])
