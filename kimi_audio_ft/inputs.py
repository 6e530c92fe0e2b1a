"""Files that trials read: each is looked at once for all trials of a launch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.canonical import TrainingSet
from kimi_audio_ft.config.checks import require
from kimi_audio_ft.config.manifests import GUARD, TEST, TRAIN, guard_sets, manifest_paths
from kimi_audio_ft.config.train import DataConfig, ModelConfig, TrainConfig
from kimi_audio_ft.decoding.transcripts import EvaluationSet
from kimi_audio_ft.features.sounds import noises, rooms
from kimi_audio_ft.manifest.overlap import Overlap, overlap_of
from kimi_audio_ft.manifest.several import Conversations, read_training, require_files, short_enough
from kimi_audio_ft.store.signature import canonical

log = logging.getLogger(__name__)

_Value = TypeVar("_Value")

# Options of data that an evaluation set does not depend on: it is read once for all of their values.
_OF_OTHERS = (
    *("train_manifest", "train_weights", "train_subset", "train_subset_seed", "augment", "allow_overlap"),
    *("test_manifest", "guard_manifests"),
)
_OF_EVALUATION = [field.name for field in fields(DataConfig) if field.name not in _OF_OTHERS]


def only_knows_the_demo(model: ModelConfig, data: DataConfig) -> str | None:
    """A sentence for who uses the embedded model on other data than the demo's, which it was made for."""
    folders = {Path(path).absolute().parts[-3:-1] for path in manifest_paths(data.eval_manifest)}
    if model.path != "tiny" or folders == {("demo", "data")}:
        return None
    return (
        "the embedded model only knows the demo's synthetic speech; for recordings of people run tokenize and train "
        "with model=kimi_audio_7b_instruct (docs/7b.md)"
    )


def longer_than_trained(evaluation: EvaluationSet) -> str | None:
    """A sentence about conversations that training would leave out; they are decoded and scored all the same."""
    settings, positions = evaluation.settings, evaluation.conversations.lengths(evaluation.base.tokenizer)[:, 0]
    count = int((positions > settings.max_length).sum())
    if not count:
        return None
    return (
        f"{evaluation.conversations.called}: {count} of {len(positions)} conversations are longer than data.max_length="
        f"{settings.max_length} positions, which limits training only; they are decoded and scored too"
    )


def more_words_than_trained(evaluation: EvaluationSet) -> str | None:
    """A sentence about a list of hot words that is much longer than the lists in training prompts."""
    words, prompt = len(evaluation.hotwords), evaluation.prompt
    if prompt is None or prompt.retrieves or words <= 2 * prompt.distractors:
        return None
    return (
        f"prompt.hotwords={prompt.hotwords}: prompts have all {words} words where texts are made, and at most "
        f"{prompt.distractors} that are not said in training (prompt.distractors), which mostly makes texts worse. "
        "Set prompt.retrieve=10, or raise prompt.distractors"
    )


def on_set(config: TrainConfig, manifest: str) -> TrainConfig:
    """A config that evaluates another manifest, and keeps nothing for the end."""
    data = replace(config.data, eval_manifest=manifest, test_manifest=None, guard_manifests=None)
    return replace(config, data=data)


class Inputs:
    """Bases, evaluation sets and training sets, by the configs that name them.

    Files are taken to stay as they were when they were first asked for; ``Trial.require_unchanged`` looks again.
    """

    def __init__(self) -> None:
        self._bases: dict[str, Base] = {}
        self._evaluations: dict[str, EvaluationSet] = {}
        self._conversations: dict[str, Conversations] = {}
        self._trainings: dict[str, TrainingSet] = {}
        self._overlaps: dict[str, Overlap] = {}
        self._sounds: dict[str, dict[str, str]] = {}
        self._told: set[str] = set()

    def base(self, config: TrainConfig) -> Base:
        trainer, features = config.trainer, config.data.features
        facts = _about_base(config)
        return _once(self._bases, facts, lambda: Base(config.model, features, trainer.accelerator, trainer.threads))

    def evaluation(self, config: TrainConfig) -> EvaluationSet:
        facts = [*_about_base(config), *(getattr(config.data, name) for name in _OF_EVALUATION), asdict(config.prompt)]

        def make() -> EvaluationSet:
            if told := only_knows_the_demo(config.model, config.data):
                log.warning("%s", told)
            evaluation = EvaluationSet(self.base(config), config.data, config.prompt)
            for told in filter(None, (longer_than_trained(evaluation), more_words_than_trained(evaluation))):
                log.warning("%s", told)
            return evaluation

        return _once(self._evaluations, facts, make)

    def trained_on(self, config: TrainConfig) -> Conversations:
        """The conversations that are trained on.

        ConfigError: there are none, too few for the subset, or ``max_length`` is beyond the model's positions.
        """
        data = config.data
        require_files(TRAIN, data.train_manifest)

        def make() -> Conversations:
            base = self.base(config)
            rule = f"the model has {base.positions} positions"
            require(data.max_length <= base.positions, "data.max_length", data.max_length, rule, "Use at most as many")
            part = read_training(data, base.tokens, base.tokenizer, config.prompt)
            return part.select(short_enough(part, base.tokenizer, data.max_length))

        return _once(self._conversations, [*_about_base(config), *_about_training(config)], make)

    def training_set(self, config: TrainConfig) -> TrainingSet:
        """What a signature says of the conversations that are trained on."""

        def make() -> TrainingSet:
            part = self.trained_on(config)
            longest = int(part.lengths(self.base(config).tokenizer)[:, 0].max())
            return TrainingSet(part.identity(), part.epoch_size, longest)

        return _once(self._trainings, [*_about_base(config), *_about_training(config)], make)

    def overlap(self, config: TrainConfig) -> Overlap:
        """What is trained on as well as evaluated; DataError: recordings, unless ``data.allow_overlap`` says so."""
        data = config.data

        def make() -> Overlap:
            found = overlap_of(self.trained_on(config), self.evaluation(config).conversations)
            if found.groups:
                log.warning("%s", _shared(found.groups, "training and evaluation"))
            return found

        facts = [*_about_base(config), *_about_training(config), data.eval_manifest]
        found = _once(self._overlaps, facts, make)
        if not data.allow_overlap:
            found.refuse()
        return found

    def require_unseen(self, config: TrainConfig) -> None:
        """Raise a DataError if a trial trains on what is tested or guarded at the end, or is chosen by what is tested.

        ConfigError: there is no such file. ``data.allow_overlap`` allows the rest.
        """
        data = config.data
        guards = guard_sets(data.guard_manifests)
        for option, path in {TEST: data.test_manifest, **{f"{GUARD}.{name}": guards[name] for name in guards}}.items():
            if path is None:
                continue
            require_files(option, path)
            unseen = on_set(config, path)
            found = [self._common(config, unseen, "training", option)]
            found += [self._common(config, unseen, "evaluation", option)] if option == TEST else []
            if not data.allow_overlap:
                found[0].refuse(to="tested" if option == TEST else "guarded")
                found[-1].refuse("evaluates", "evaluated", "tested")

    def _common(self, config: TrainConfig, unseen: TrainConfig, use: str, option: str) -> Overlap:
        """What a set for the end has in common with the config's own "training" or "evaluation"."""

        def make() -> Overlap:
            own = self.trained_on(config) if use == "training" else self.evaluation(config).conversations
            found = overlap_of(own, self.evaluation(unseen).conversations)
            if found.groups:
                log.warning("%s", _shared(found.groups, f"{use} and {option}"))
            return found

        data = config.data
        own_set = [data.eval_manifest, data.audio_root, data.prompt, asdict(config.prompt)]
        facts = _about_training(config) if use == "training" else own_set
        return _once(self._overlaps, [*_about_base(config), *facts, unseen.data.eval_manifest, use, option], make)

    def sounds(self, config: TrainConfig) -> dict[str, str]:
        """Identities of the noises and rooms that training audio gets; errors as of ``features.sounds``."""
        augment = config.data.augment

        def make() -> dict[str, str]:
            found = {"noises": noises(augment), "rooms": rooms(augment)}
            for kind, folder in (("noise", augment.noise_folder), ("room", augment.room_folder)):
                if folder is not None and found[f"{kind}s"] is None and folder not in self._told:
                    option = f"data.augment.{kind}"
                    log.warning("%s_folder=%s is not used where %s_probability is 0", option, folder, option)
                    self._told.add(folder)
            return {kind: sounds.identity for kind, sounds in found.items() if sounds is not None}

        return _once(self._sounds, [asdict(augment)], make)


def _shared(groups: list[str], both: str) -> str:
    some = ", ".join(map(repr, groups[:3])) + (", ..." if len(groups) > 3 else "")
    return (
        f"{both} share {len(groups)} group(s) ({some}): segments of one recording, or of one speaker, "
        "are easier than unknown ones. Prepare with one group_column, or leave these out of one manifest"
    )


def _about_base(config: TrainConfig) -> list[Any]:
    return [asdict(config.model), config.data.features, config.trainer.accelerator, config.trainer.threads]


def _about_training(config: TrainConfig) -> list[Any]:
    data = config.data
    named = [data.train_manifest, data.train_weights, data.audio_root, data.prompt, asdict(config.prompt)]
    return [*named, data.train_subset, data.train_subset_seed, data.max_length]


def _once(seen: dict[str, _Value], facts: list[Any], make: Callable[[], _Value]) -> _Value:
    """The value by its facts (JSON); one that cannot be made is tried again."""
    key = canonical(facts)
    if key not in seen:
        seen[key] = make()
    return seen[key]
