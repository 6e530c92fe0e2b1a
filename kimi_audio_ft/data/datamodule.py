"""Lightning data modules: manifests to dataloaders of micro-batches."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from kimi_audio_ft.config.prompt import PromptConfig
from kimi_audio_ft.config.train import DataConfig
from kimi_audio_ft.data.batching import (
    BatchPlan,
    EpochSteps,
    Seconds,
    StepsTogether,
    cheapest_cut,
    cut,
    validation_share,
)
from kimi_audio_ft.data.dataset import AudioSource, ConversationDataset, JoinedDataset, Sample, Samples, make_batch
from kimi_audio_ft.data.workers import AHEAD, ended_worker, workers_here
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.features.encode import Encoders, encode_missing
from kimi_audio_ft.features.perturbation import UNCHANGED, Perturbations
from kimi_audio_ft.manifest.conversation import TokenRange
from kimi_audio_ft.manifest.manifest import Manifest, require_recordings
from kimi_audio_ft.manifest.several import Conversations, read_evaluation, read_training, short_enough
from kimi_audio_ft.model.text_tokenizer import TextTokenizer
from kimi_audio_ft.store.features import FeatureStore

log = logging.getLogger(__name__)

# Limit on the list of omitted conversations.
_MOST_LISTED = 1000


@dataclass(frozen=True)
class BatchRules:
    """Batching options of the optimizer.

    accumulate: micro-batches per rank in an optimizer step. rank, ranks: this process's rank, and their number.
    """

    accumulate: int
    average: str
    seed: int
    progress: bool = False
    rank: int = 0
    ranks: int = 1


class ResumableLoader(DataLoader):
    """One rank's optimizer steps of an epoch; Lightning can resume it at a checkpoint's step."""

    def __init__(self, dataset: Dataset, steps: EpochSteps | StepsTogether, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=steps, **options)  # type: ignore[arg-type]  # lists, or dicts of them
        self._steps, self._delivered = steps, 0

    def __iter__(self) -> Any:
        self._delivered = self._steps.skip
        try:
            for step in super().__iter__():
                if isinstance(step, UserError):
                    raise step
                self._delivered += 1
                yield step
        except RuntimeError as error:
            ended = ended_worker(error)
            if ended is None:
                raise
            raise ended from error
        self._steps.skip = 0

    def state_dict(self) -> dict[str, int]:
        """Number of steps of this epoch that were yielded; equal for all ranks."""
        return {"delivered": self._delivered % max(1, len(self._steps))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the steps that an earlier process was given."""
        self._steps.skip = state["delivered"]


class ConversationData(pl.LightningDataModule):
    """Training and validation batches; ``eval_conversations`` is decoded and scored.

    Reading, validation and encoding happen in ``setup``; then ``num_left_out`` counts the conversations over the length
    limit and ``left_out`` lists the first thousand.

    Args:
        prompt: options of the hot words; None: there are none.
    """

    def __init__(
        self,
        settings: DataConfig,
        tokenizer: TextTokenizer,
        encoders: Encoders,
        tokens: TokenRange,
        rules: BatchRules,
        prompt: PromptConfig | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.tokenizer, self.encoders, self.prompt = settings, tokenizer, encoders, prompt
        self.tokens, self.rules = tokens, rules
        self.left_out: list[dict[str, Any]] = []
        self._manifests: dict[str, Any] = {}
        self.num_left_out = 0
        self.pass_positions: int | None = None  # most padded ones of a pass; None: every micro-batch is a pass
        self.passes_together = False  # every rank takes as many passes as the others
        self.pass_seconds: Seconds | None = None  # a pass's time, for which padding is weighed; None: fewest passes
        self._ready = False

    def setup(self, stage: str | None = None) -> None:
        """Read and validate the manifests, drop conversations over the length limit, encode missing recordings."""
        if self._ready:
            return
        settings = self.settings
        self.eval_conversations = read_evaluation(settings, self.tokens, self.tokenizer, self.prompt)
        train = read_training(settings, self.tokens, self.tokenizer, self.prompt)
        self.eval_set = self.dataset(self.eval_conversations, None)
        kept, lengths = self._within_limit(train)
        self.train_set = self.dataset(kept, Perturbations.of(settings.augment))
        if len(kept.parts) > 1 or kept.mix is not None:
            self._manifests = {"manifests": kept.shares()}
        rules = self.rules
        slowest = min(settings.augment.speeds)  # slower speech is longer; the token budget holds for the slowest
        self.plan = BatchPlan(
            lengths=np.rint(lengths[:, 0] / min(1.0, slowest)).astype(np.int64),
            supervised=lengths[:, 1],
            batch_size=settings.batch_size,
            max_tokens=settings.max_batch_tokens,
            step_batches=rules.accumulate * rules.ranks,
            bucket=settings.bucket_by_length,
            average=rules.average,
            seed=rules.seed,
            mix=kept.mix,
        )
        self._ready = True

    @property
    def parts(self) -> list[ConversationData]:
        """This, as the parts of ``DataTogether``."""
        return [self]

    def dataset(self, conversations: Conversations, perturbations: Perturbations | None, **options: Any) -> Samples:
        """A validated dataset over conversations; encodes their missing recordings."""
        parts = [self._dataset(part, perturbations, **options) for part in conversations.parts]
        return parts[0] if len(parts) == 1 else JoinedDataset(parts, conversations)

    def _dataset(
        self, conversations: Manifest, perturbations: Perturbations | None, **options: Any
    ) -> ConversationDataset:
        features = self.settings.features
        augment = None if perturbations is None else perturbations.settings
        if augment is not None and features != "cached" and (augment.time_masks or augment.channel_masks):
            rule = "masks are put on stored features (data.augment.time_masks and channel_masks)"
            raise ConfigError("data.features", features, rule, "Set data.features=cached, or both to 0")
        if features != "none":
            require_recordings(conversations)
        source = AudioSource(features, self._store(conversations, perturbations), self.tokens.first)
        dataset = ConversationDataset(conversations, self.tokenizer, source, perturbations, self.rules.seed, **options)
        dataset.check_codes()
        return dataset

    def _store(self, conversations: Manifest, perturbations: Perturbations | None) -> FeatureStore | None:
        forms = [UNCHANGED] if perturbations is None else perturbations.all
        if self.settings.features == "cached":
            return encode_missing(self.encoders, conversations, forms, progress=self.rules.progress)
        changed = [form for form in forms if form != UNCHANGED]
        if not changed:
            return None
        if self.settings.features == "none":
            rule = "recordings cannot be perturbed when their features are left out"
            remedy = "Set data.augment.speeds=[1.0] and gains_db=[0.0], without noise and rooms"
            raise ConfigError("data.features", "none", rule, remedy)
        codes_only = Encoders(self.encoders.files, False, self.encoders.dtype, self.encoders.device)
        return encode_missing(codes_only, conversations, changed, progress=self.rules.progress)

    def _within_limit(self, conversations: Conversations) -> tuple[Conversations, np.ndarray]:
        lengths, limit = conversations.lengths(self.tokenizer), self.settings.max_length
        kept = short_enough(conversations, self.tokenizer, limit)
        long = np.setdiff1d(np.arange(len(conversations)), kept)
        if len(long):
            log.warning(
                "%s: left out %d of %d conversations longer than data.max_length=%d positions",
                conversations.called, len(long), len(conversations), limit,
            )  # fmt: skip
        self.num_left_out = len(long)
        self.left_out = []
        for index in long[:_MOST_LISTED].tolist():
            number, inner = conversations.place(index)
            part = conversations.parts[number]
            place = {"id": part[inner].id, "line": part.line_of(inner), "positions": int(lengths[index, 0])}
            several = len(conversations.parts) > 1
            self.left_out.append(place | ({"manifest": str(part.source.path)} if several else {}))
        return conversations.select(kept), lengths[kept]

    def steps_by_epoch(self, max_epochs: int) -> tuple[int, ...]:
        """Optimizer steps of every epoch; adapters with different data form a pack only if these are equal."""
        return tuple(len(self.plan.epoch(epoch)) for epoch in range(max_epochs))

    def num_steps(self, max_epochs: int, max_steps: int) -> int:
        steps = 0
        for epoch in range(max_epochs):
            steps += len(self.plan.epoch(epoch))
            if max_steps != -1 and steps >= max_steps:
                return max_steps
        return steps

    def train_dataloader(self) -> ResumableLoader:
        """This rank's optimizer steps of Lightning's current epoch, as lists of micro-batches."""
        return self.steps_of(self.trainer.current_epoch if self.trainer is not None else 0)

    def steps_of(self, epoch: int) -> ResumableLoader:
        return self.loader(self.train_set, self.epoch_steps(epoch), self.collate(), self.most_positions)

    def epoch_steps(self, epoch: int) -> EpochSteps:
        rules, together = self.rules, self.pass_positions if self.passes_together else None
        return EpochSteps(self.plan, epoch, rules.rank, rules.ranks, together)

    def loader(
        self, samples: Dataset, steps: EpochSteps | StepsTogether, collate: Any, largest: int
    ) -> ResumableLoader:
        """Steps of these samples, of at most ``largest`` positions, by this data's worker processes."""
        workers, ahead = self._workers(largest)
        return ResumableLoader(
            samples,
            steps,
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=ahead or None,
            pin_memory=self._on_gpu,
        )

    @property
    def _on_gpu(self) -> bool:
        return torch.device(self.encoders.device).type == "cuda"

    @property
    def most_positions(self) -> int:
        """Positions of a rank's step, at most."""
        longest = int(self.plan.lengths.max())
        return self.rules.accumulate * min(self.plan.batch_size * longest, max(self.plan.max_tokens, longest))

    def _workers(self, largest: int) -> tuple[int, int]:
        """Processes that lay out conversations, and steps that each prepares ahead."""
        asked = self.settings.num_workers
        if asked != "auto":
            return int(asked), AHEAD if asked else 0
        return workers_here(largest, self.rules.ranks) if self._on_gpu else (0, 0)

    def step(self, epoch: int, step: int) -> list[dict[str, Any]]:
        draws = self.plan.epoch(epoch).step(step, self.rules.rank, self.rules.ranks)
        return self.collate()([self.train_set[draw] for draw in draws])

    def collate(self) -> Collate:
        online = self.settings.features == "online"
        return Collate(self.tokenizer.pad_id, online, self.pass_positions, self.pass_seconds)

    def validation_batches(self) -> DataLoader:
        """This rank's share of the evaluation set for the validation loss: lists of one batch."""
        settings, rules = self.settings, self.rules
        lengths = self.eval_set.lengths()[:, 0]
        size, most, seconds = max(settings.batch_size, 8), settings.max_batch_tokens, None
        if self.pass_positions is not None and rules.ranks == 1:  # ranks, whose memory may differ, share one division
            size, most, seconds = len(lengths), self.pass_positions, self.pass_seconds
        return DataLoader(
            self.eval_set,
            batch_sampler=validation_share(lengths, size, most, rules.rank, rules.ranks, seconds),
            collate_fn=replace(self.collate(), most=None),
            pin_memory=self._on_gpu,
        )

    def largest_validation_batch(self) -> list[dict[str, Any]]:
        """The validation batch of most padded positions."""
        loader: Any = self.validation_batches()
        lengths = self.eval_set.lengths()[:, 0]
        largest = max(loader.batch_sampler, key=lambda draws: len(draws) * max(lengths[draw.index] for draw in draws))
        return loader.collate_fn([self.eval_set[draw] for draw in largest])

    def describe(self) -> dict[str, Any]:
        """Facts about the data, saved with the adapter; with several manifests, what an epoch takes of each."""
        left_out = {"num_left_out": self.num_left_out, "left_out": self.left_out}
        return {"conversations": len(self.train_set), **self._manifests, **left_out, **asdict(self.rules)}


@dataclass
class Collate:
    """Samples to padded micro-batches; a class, so that it can be sent to worker processes.

    most, seconds: put the samples of all micro-batches together into passes of at most so many padded positions.
    """

    pad_id: int
    online: bool
    most: int | None = None
    seconds: Seconds | None = None

    def __call__(self, samples: list[Sample] | UserError) -> Any:
        if isinstance(samples, UserError):
            return samples
        batches = [list(batch) for _, batch in groupby(samples, key=lambda sample: sample.number)]
        for batch in batches:
            for row, sample in enumerate(batch):
                sample.row = row
        together = samples[0].passes
        if self.most is not None and together is not None:
            batches = as_many(samples, self.most, together)
        elif self.most is not None:
            batches = passes_of(samples, self.most, self.seconds)
        return [make_batch(batch, self.pad_id, online=self.online) for batch in batches]


def as_many(samples: list[Sample], most: int, count: int) -> list[list[Sample]]:
    """``passes_of``, but exactly so many: the largest are halved, and one without weight is repeated if need be."""
    passes = passes_of(samples, most)
    while len(passes) > count:  # slower speech is rounded to a position more than was planned
        most += len(samples)
        passes = passes_of(samples, most)
    while len(passes) < count:
        place = max(range(len(passes)), key=lambda index: len(passes[index]))
        largest = passes[place]
        if len(largest) == 1:
            passes.append([replace(passes[0][0], weight=0.0)])
        else:
            passes[place : place + 1] = [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
    return passes


def passes_of(samples: list[Sample], most: int, seconds: Seconds | None = None) -> list[list[Sample]]:
    """Samples of a step, of similar length together, in passes of at most so many padded positions.

    As few as possible; with a pass's ``seconds``, more of them where that saves more padding than it costs. Those of no
    weight, which only pad the number of micro-batches, are left out if there are others.
    """
    ordered = sorted([one for one in samples if one.weight] or samples, key=lambda one: len(one.layout))
    lengths = np.array([len(one.layout) for one in ordered])
    bounds = cut(lengths, len(ordered), most) if seconds is None else cheapest_cut(lengths, most, seconds)
    return [ordered[start:end] for start, end in pairwise(bounds)]
