"""Conversations as samples: laid out in two streams, with their features, perturbed and masked while training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from kimi_audio_ft.data.audio import audio_info, read_audio
from kimi_audio_ft.data.batch import Sample
from kimi_audio_ft.data.encoding import UNCHANGED, Perturbation
from kimi_audio_ft.data.features import FeatureStore
from kimi_audio_ft.data.layout import Layout, Tokenizer, layout_conversation
from kimi_audio_ft.data.manifest import TOKENIZE_REMEDY, Conversation
from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.model.audio_frontend import num_audio_tokens
from kimi_audio_ft.schema import AugmentConfig
from kimi_audio_ft.signature import file_digest


@dataclass(frozen=True)
class Draw:
    """One sample of a training step.

    epoch: seeds its perturbation. weight: what its loss counts for in the step's mean (see ``batching``).
    number: place of its micro-batch among those of the epoch, however many ranks share them.
    """

    index: int
    epoch: int
    weight: float = 1.0
    number: int = 0


@dataclass
class AudioSource:
    """How the audio of conversations becomes features.

    mode: "cached" reads features from ``store``; "online" returns waveforms for the model's own encoder; "none" leaves
    features out. ``store`` holds the codes of perturbed recordings in either case.
    token_offset: added to stored codes.
    """

    mode: str
    store: FeatureStore | None
    token_offset: int


class ConversationDataset(Dataset[Sample]):
    """Samples by index (as in epoch 0) or by ``Draw`` (training).

    Every random choice depends on the seed, the epoch and the conversation's id alone: not on workers or order.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        tokenizer: Tokenizer,
        audio: AudioSource,
        manifest: str | Path,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        for_generation: bool = False,
    ) -> None:
        self.conversations = conversations
        self.tokenizer = tokenizer
        self.audio = audio
        self.manifest = manifest
        self.augment = augment
        self.seed = seed
        self.for_generation = for_generation

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, item: int | Draw) -> Sample:
        draw = item if isinstance(item, Draw) else Draw(item, 0)
        conversation = self.conversations[draw.index]
        rng = random.Random(f"{self.seed} {draw.epoch} {conversation.id}")
        perturbation = UNCHANGED
        if self.augment is not None:
            perturbation = Perturbation(rng.choice(self.augment.speeds), rng.choice(self.augment.gains_db))
        if perturbation != UNCHANGED:
            conversation = self._with_codes_of(conversation, perturbation)
        sample = Sample(
            conversation.id,
            self.layout(conversation),
            reference=conversation.reference,
            weight=draw.weight,
            number=draw.number,
        )
        if self.audio.mode == "cached":
            store = self.audio.store
            assert store is not None
            features = [store.features(perturbation.key(file_digest(path))) for path in conversation.audio_paths]
            sample.features = [self._mask(rows, rng) for rows in features]
        elif self.audio.mode == "online":
            sample.waveforms = [perturbation.apply(read_audio(path)) for path in conversation.audio_paths]
        return sample

    def __getitems__(self, items: Sequence[int | Draw]) -> list[Sample] | UserError:
        """The samples of a batch. A worker process returns a user's error: PyTorch would raise another one instead."""
        try:
            return [self[item] for item in items]
        except UserError as error:
            if get_worker_info() is None:
                raise
            return error

    def layout(self, conversation: Conversation) -> Layout:
        """The conversation's two streams."""
        return layout_conversation(
            conversation.messages, self.tokenizer, conversation.task_type, for_generation=self.for_generation
        )

    def lengths(self) -> list[tuple[int, int]]:
        """Positions, and supervised text positions, of every conversation (unperturbed)."""
        layouts = (self.layout(conversation) for conversation in self.conversations)
        return [(len(layout), sum(layout.text_loss_mask)) for layout in layouts]

    def check_codes(self) -> None:
        """Every audio message must have as many codes as its recording gives; not looked at without features.

        Raises:
            DataError: naming the manifest and its line.
        """
        if self.audio.mode == "none":
            return
        for conversation in self.conversations:
            messages = [message for message in conversation.messages if message["message_type"] == "audio"]
            for message, path in zip(messages, conversation.audio_paths, strict=True):
                codes, expected = len(message["audio_tokens"]), self._num_codes(path)
                if codes != expected:
                    problem = f"{codes} audio_tokens for {path}, whose audio gives {expected}"
                    raise DataError(self.manifest, problem, TOKENIZE_REMEDY + " again", conversation.line)

    def _num_codes(self, path: Path) -> int:
        if self.audio.mode == "cached" and self.audio.store is not None:
            return self.audio.store.num_rows(file_digest(path))
        return num_audio_tokens(audio_info(path).num_samples_16k)

    def _with_codes_of(self, conversation: Conversation, perturbation: Perturbation) -> Conversation:
        store, paths = self.audio.store, iter(conversation.audio_paths)
        assert store is not None, "perturbed audio needs its own codes"
        messages = tuple(
            {**m, "audio_tokens": [c + self.audio.token_offset
                                   for c in store.codes(perturbation.key(file_digest(next(paths))))]}
            if m["message_type"] == "audio" else m
            for m in conversation.messages
        )  # fmt: skip
        return replace(conversation, messages=messages)

    def _mask(self, rows_TD: Tensor, rng: random.Random) -> Tensor:
        """Zero random spans of frames and bands of channels (SpecAugment, arXiv 1904.08779, on encoder features)."""
        augment = self.augment
        if augment is None or not (augment.time_masks or augment.channel_masks):
            return rows_TD
        from torchaudio.functional import mask_along_axis

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.getrandbits(63))
            # torchaudio draws from the global generator; axis 1 is the rows' time here, axis 2 their channels. It masks
            # less than the width it is given, and counts positions in the rows' dtype: bf16 cannot beyond 256.
            masked = rows_TD.unsqueeze(0).float()
            for _ in range(augment.time_masks):
                masked = mask_along_axis(masked, augment.time_mask_frames + 1, 0.0, axis=1)
            for _ in range(augment.channel_masks):
                masked = mask_along_axis(masked, augment.channel_mask_width + 1, 0.0, axis=2)
        return masked.squeeze(0).to(rows_TD.dtype)
