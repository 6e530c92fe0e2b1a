"""Dataset: conversations as samples (two streams with features, augmented in training) and padded batches."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from kimi_audio_ft.errors import ChangedError, DataError, UserError
from kimi_audio_ft.features.perturbation import UNCHANGED, Perturbations
from kimi_audio_ft.features.workload import rows_of
from kimi_audio_ft.manifest.audio import read_audio
from kimi_audio_ft.manifest.conversation import TASK, TOKENIZE_REMEDY, Conversation, Layout, layout_conversation
from kimi_audio_ft.manifest.manifest import Manifest
from kimi_audio_ft.manifest.part import Part
from kimi_audio_ft.manifest.several import Conversations
from kimi_audio_ft.model.places import audio_run_lengths, places_of
from kimi_audio_ft.model.text_tokenizer import TextTokenizer
from kimi_audio_ft.store.digests import file_digest
from kimi_audio_ft.store.features import FeatureStore

# Part of a recording's codes that are the same whatever has encoded it.
_SAME_CODES = 0.5
# Conversations that a dataset keeps laid out: of 30 s each, they take some 60 MB.
_MOST_KEPT = 4096


@dataclass
class Sample:
    """One conversation, ready for batching.

    features: ``[T_i, D]`` of each audio in order, or None if left out or computed from ``waveforms``.
    weight: loss weight in the mean of the optimizer step, equal for all samples of a micro-batch.
    number: index of its micro-batch in the epoch. row: its place there. passes: see ``Draw``.
    """

    id: str
    layout: Layout
    features: list[Tensor] | None = None
    waveforms: list[Tensor] = field(default_factory=list)
    reference: str = ""
    weight: float = 1.0
    number: int = 0
    row: int = 0
    passes: int | None = None


def make_batch(samples: Sequence[Sample], pad_id: int, left: bool = False, online: bool = False) -> dict[str, Any]:
    """Pad samples to the model's ``forward`` arguments (under "inputs"), with shifted text labels and their mask.

    Places of audio codes and of answers (``answers_of``) are found here, where that takes no host sync.

    Args:
        left: pad on the left, as generation needs; else on the right.
        online: pass the waveforms on, for a model with an attached Whisper encoder.
    """
    layouts = [sample.layout for sample in samples]

    longest = max(map(len, layouts))

    def pad(rows: Iterable[Sequence[int]], fill: int) -> Tensor:
        padded = np.full((len(layouts), longest), fill, dtype=bool if fill is False else np.int64)
        for target, row in zip(padded, rows, strict=True):
            target[longest - len(row) if left else 0 :][: len(row)] = row
        return torch.from_numpy(padded)

    text_ids = pad((layout.text_ids for layout in layouts), pad_id)
    text_loss_mask = pad((layout.text_loss_mask for layout in layouts), fill=False)
    is_audio = pad((layout.is_continuous_mask for layout in layouts), fill=False)
    inputs: dict[str, Any] = {
        "input_ids": pad((layout.audio_ids for layout in layouts), pad_id),
        "text_input_ids": text_ids,
        "is_continuous_mask": is_audio,
        "audio_places": places_of(is_audio),
        "audio_lengths": audio_run_lengths(is_audio),
        "attention_mask": pad(([1] * len(layout) for layout in layouts), 0),
        "audio_features": None,
    }
    if online:
        inputs["waveforms"] = [waveform for sample in samples for waveform in sample.waveforms]
    elif all(sample.features is not None for sample in samples):
        inputs["audio_features"] = [rows for sample in samples for rows in sample.features or []]
    # Position p predicts token p + 1, as published; the last position predicts nothing.
    labels = torch.nn.functional.pad(text_ids[:, 1:], (0, 1), value=pad_id)
    mask = torch.nn.functional.pad(text_loss_mask[:, 1:], (0, 1), value=False)
    return {
        "ids": [sample.id for sample in samples],
        "weight": samples[0].weight,
        "number": samples[0].number,
        "samples": torch.tensor([(sample.number << 20) + sample.row for sample in samples]),
        "inputs": inputs,
        "text_labels": labels,
        "text_loss_mask": mask,
        "answers": answers_of(labels, mask),
    }


def answers_of(labels_BS: Tensor, mask_BS: Tensor) -> dict[str, Tensor]:
    """Supervised positions: their ``labels``, and the row and column of each, all ``[N]``."""
    rows_N, columns_N = mask_BS.nonzero(as_tuple=True)
    return {"labels": labels_BS[rows_N, columns_N], "rows": rows_N, "columns": columns_N}


@dataclass(frozen=True)
class Draw:
    """One sample of a training step.

    epoch, copy: seed its perturbation; copy: how often the epoch has taken this conversation before.
    weight: loss weight in the step's mean (see ``batching``). number: index of its micro-batch in the epoch, over all
    ranks. passes: that every rank takes for this step; None: each as many as it likes.
    """

    index: int
    epoch: int
    weight: float = 1.0
    number: int = 0
    copy: int = 0
    passes: int | None = None


@dataclass
class AudioSource:
    """Source of audio features.

    mode: "cached" reads features from ``store``; "online" returns waveforms for the model's own encoder; "none" omits
    features. ``store`` holds the codes of perturbed recordings in every mode.
    token_offset: added to stored codes.
    """

    mode: str
    store: FeatureStore | None
    token_offset: int


@dataclass(eq=False)
class ConversationDataset(Dataset[Sample]):
    """Samples by index (as in epoch 0) or by ``Draw`` (training).

    Random choices depend only on the seed, the epoch and the conversation's id, not on workers or order.
    """

    conversations: Manifest
    tokenizer: TextTokenizer
    audio: AudioSource
    perturbations: Perturbations | None = None
    seed: int = 0
    for_generation: bool = False
    # Conversations whose codes are known to be those of the stored features, which stay as they are.
    _compared: set[int] = field(default_factory=set, init=False)
    _kept: dict[int, tuple[Conversation, Layout]] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, item: int | Draw) -> Sample:
        draw = item if isinstance(item, Draw) else Draw(item, 0)
        conversation, layout = self._laid_out(draw.index)
        again = f" {draw.copy}" if draw.copy else ""
        rng = random.Random(f"{self.seed} {draw.epoch} {conversation.id}{again}")
        perturbation = UNCHANGED if self.perturbations is None else self.perturbations.draw(rng)
        recorded = self.audio.mode != "none"
        digests = self.conversations.digests_of(draw.index, self._digests) if recorded else []
        keys = [perturbation.key(digest) for digest in digests]
        if perturbation != UNCHANGED:
            conversation = self._with_codes_of(conversation, keys)
            layout = self._layout(conversation)
        elif self.audio.mode == "cached" and draw.index not in self._compared:
            self._require_same_codes(conversation, keys)
            self._compared.add(draw.index)
        sample = Sample(
            conversation.id,
            layout,
            reference=conversation.reference,
            weight=draw.weight,
            number=draw.number,
            passes=draw.passes,
        )
        if self.audio.mode == "cached":
            store = self.audio.store
            assert store is not None
            sample.features = [self._mask(store.features(key), rng) for key in keys]
        elif self.audio.mode == "online":
            named = zip(conversation.audio_paths, conversation.parts, digests, strict=True)
            for path, part, digest in named:
                sample.waveforms.append(perturbation.apply(read_audio(path, part), digest))
                if part.digest(file_digest(path)) != digest:
                    raise ChangedError(path, "while it was being read")
        return sample

    def _laid_out(self, index: int) -> tuple[Conversation, Layout]:
        """A conversation as the manifest has it. Every epoch asks again: some thousands are kept.

        Not by a worker process, which ends with its epoch.
        """
        if index in self._kept:
            return self._kept[index]
        conversation = self.conversations[index]
        both = conversation, self._layout(conversation)
        if len(self._kept) < _MOST_KEPT and get_worker_info() is None:
            self._kept[index] = both
        return both

    def _layout(self, conversation: Conversation) -> Layout:
        return layout_conversation(conversation.messages, self.tokenizer, TASK, self.for_generation)

    def __getitems__(self, items: Sequence[int | Draw]) -> list[Sample] | UserError:
        return _samples(self, items)

    @cached_property
    def _digests(self) -> np.ndarray:
        """Digest of every recording; read once, before workers start."""
        return self.conversations.recordings.digests()

    def lengths(self) -> np.ndarray:
        """``[n, 2]``: positions and supervised text positions of every conversation (unperturbed)."""
        return self.conversations.lengths(self.tokenizer, self.for_generation)

    def check_codes(self) -> None:
        """DataError unless every audio message has as many codes as its recording; skipped without features."""
        if self.audio.mode == "none":
            return
        codes = self.conversations.columns.codes
        expected = self._expected_codes()
        found = self.conversations.first_with(codes != expected)
        if found is not None:
            conversation, audio, position = found
            name = conversation.parts[position].name_in(conversation.audio_paths[position])
            problem = f"{codes[audio]} audio_tokens for {name}, whose audio gives {expected[audio]}"
            raise DataError(self.conversations.source.path, problem, TOKENIZE_REMEDY + " again", conversation.line)

    def _expected_codes(self) -> np.ndarray:
        """Number of codes of each audio message's recording, for the messages of this dataset."""
        wanted = self.conversations.audio_messages()
        if self.audio.mode == "online" or self.audio.store is None:
            return self.conversations.recordings.num_codes(self._digests, wanted)
        expected = np.zeros(len(self._digests), np.int64)
        expected[wanted] = rows_of(self.audio.store, self._digests[wanted])
        missing = np.flatnonzero(expected < 0)  # the store may hold only perturbed versions
        if len(missing):
            expected[missing] = self.conversations.recordings.num_codes(self._digests, missing)[missing]
        return expected

    def _with_codes_of(self, conversation: Conversation, keys: Sequence[str]) -> Conversation:
        store, left = self.audio.store, iter(keys)
        assert store is not None, "perturbed audio needs its own codes"
        messages = tuple(
            {**m, "audio_tokens": [code + self.audio.token_offset for code in store.codes(next(left))]}
            if m["message_type"] == "audio" else m
            for m in conversation.messages
        )  # fmt: skip
        return replace(conversation, messages=messages)

    def _require_same_codes(self, conversation: Conversation, keys: Sequence[str]) -> None:
        """DataError if the manifest's codes are another recording's than the stored ones, which are the file's now.

        Codes of the same recording may differ here and there: encoders round in another way on another device.
        """
        store, left = self.audio.store, iter(keys)
        assert store is not None, "cached features are in a store"
        for message in conversation.messages:
            if message["message_type"] != "audio":
                continue
            stored = np.array(store.codes(next(left))) + self.audio.token_offset
            if np.mean(stored == np.array(message["audio_tokens"])) < _SAME_CODES:
                name = Part.of(message).name_in(message["content"])
                problem = f"audio_tokens are not those of {name}, which has changed since"
                source = self.conversations.source.path
                raise DataError(source, problem, TOKENIZE_REMEDY + " again", conversation.line)

    def _mask(self, rows_TD: Tensor, rng: random.Random) -> Tensor:
        """Zero random spans of frames and bands of channels (SpecAugment, arXiv 1904.08779, on encoder features)."""
        augment = None if self.perturbations is None else self.perturbations.settings
        if augment is None or not (augment.time_masks or augment.channel_masks):
            return rows_TD
        from torchaudio.functional import mask_along_axis

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.getrandbits(63))
            # torchaudio uses the global generator; axis 1 is time here, axis 2 channels. The mask width is exclusive,
            # and positions are counted in the rows' dtype, which fails beyond 256 in bf16.
            masked = rows_TD.unsqueeze(0).float()
            for _ in range(augment.time_masks):
                masked = mask_along_axis(masked, augment.time_mask_frames + 1, 0.0, axis=1)
            for _ in range(augment.channel_masks):
                masked = mask_along_axis(masked, augment.channel_mask_width + 1, 0.0, axis=2)
        return masked.squeeze(0).to(rows_TD.dtype)


@dataclass(eq=False)
class JoinedDataset(Dataset[Sample]):
    """The samples of several datasets, one after the other: ``parts`` are those of the parts of ``conversations``."""

    parts: Sequence[ConversationDataset]
    conversations: Conversations

    @property
    def audio(self) -> AudioSource:
        """Source of the features of all parts."""
        return self.parts[0].audio

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, item: int | Draw) -> Sample:
        draw = item if isinstance(item, Draw) else Draw(item, 0)
        number, index = self.conversations.place(draw.index)
        sample = self.parts[number][replace(draw, index=index)]
        return replace(sample, id=self.conversations.id_in(number, sample.id))

    def __getitems__(self, items: Sequence[int | Draw]) -> list[Sample] | UserError:
        return _samples(self, items)

    def lengths(self) -> np.ndarray:
        """``[n, 2]``: positions and supervised text positions of every conversation (unperturbed)."""
        return np.concatenate([part.lengths() for part in self.parts])


Samples = ConversationDataset | JoinedDataset


def _samples(dataset: Samples, items: Sequence[int | Draw]) -> list[Sample] | UserError:
    """Samples of a batch. A worker returns a UserError, because PyTorch would re-raise it as another type."""
    try:
        return [dataset[item] for item in items]
    except UserError as error:
        if get_worker_info() is None:
            raise
        return error
