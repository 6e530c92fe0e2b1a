"""Several manifests as one: training data mixed by weights, and evaluation sets with names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from kimi_audio_ft.config.checks import require
from kimi_audio_ft.config.data_file import TOKENS
from kimi_audio_ft.config.manifests import EVAL, TRAIN, evaluation_sets, manifest_paths, parts_of_training
from kimi_audio_ft.config.prompt import PromptConfig
from kimi_audio_ft.config.train import DataConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.manifest.conversation import Conversation, TokenRange
from kimi_audio_ft.manifest.hotwords import ChosenHotwords, Hotwords, read_drawn_hotwords, read_hotwords
from kimi_audio_ft.manifest.manifest import (
    Manifest,
    drawing_keys,
    manifest_identity,
    read_manifest,
    reference_identity,
    remembered,
    require_references,
)
from kimi_audio_ft.store.cache import Arrays
from kimi_audio_ft.store.signature import digest_of

if TYPE_CHECKING:
    from kimi_audio_ft.model.text_tokenizer import TextTokenizer


@dataclass(frozen=True, eq=False)
class Conversations(Sequence[Conversation]):
    """Conversations of one or several manifests, one manifest after the other.

    parts: of the manifests. weights: of the parts in an epoch of training; None: every conversation is taken once.
    names: of the parts, if they are several evaluation sets. prefixed: ids are ``NAME/ID``, because two sets have one.
    """

    parts: tuple[Manifest, ...]
    weights: tuple[float, ...] | None = None
    names: tuple[str, ...] = ()
    prefixed: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> Conversations: ...
    def __getitem__(self, index: int | slice) -> Conversation | Conversations:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        number, inner = self.place(index)
        conversation = self.parts[number][inner]
        recording = self.id_in(number, conversation.recording)
        return replace(conversation, id=self.id_in(number, conversation.id), recording=recording)

    def id_in(self, number: int, name: str) -> str:
        """The id, or recording, of a conversation of a part, given what the part calls it."""
        return f"{self.names[number]}/{name}" if self.prefixed else name

    def place(self, index: int) -> tuple[int, int]:
        """Number of the part that has a conversation, and the conversation's index there; IndexError: none has it."""
        index += len(self) if index < 0 else 0
        for number, part in enumerate(self.parts):
            if 0 <= index < len(part):
                return number, index
            index -= len(part)
        raise IndexError(index)

    def select(self, indices: np.ndarray) -> Conversations:
        """The conversations at ascending indices; parts that have none are left out."""
        kept = []
        for number, (start, part) in enumerate(zip(self._starts, self.parts, strict=True)):
            inner = indices[(indices >= start) & (indices < start + len(part))] - start
            if len(inner):
                kept.append((number, part.select(inner)))
        numbers, parts = [number for number, _ in kept], tuple(part for _, part in kept)
        weights = tuple(self.weights[number] for number in numbers) if self.weights is not None else None
        return replace(
            self, parts=parts, weights=weights, names=tuple(self.names[number] for number in numbers if self.names)
        )

    @property
    def _starts(self) -> list[int]:
        return np.cumsum([0, *map(len, self.parts[:-1])]).tolist()

    @property
    def called(self) -> str:
        """The paths of the manifests."""
        return ", ".join(str(part.source.path) for part in self.parts)

    @property
    def mix(self) -> tuple[tuple[int, int], ...] | None:
        """Of every part its conversations, and how many of them an epoch takes; None: an epoch takes all, once."""
        sizes, weights = [len(part) for part in self.parts], self.weights or (1.0,) * len(self.parts)
        counts = [max(1, round(weight * size)) for weight, size in zip(weights, sizes, strict=True)]
        return None if counts == sizes else tuple(zip(sizes, counts, strict=True))

    @property
    def epoch_size(self) -> int:
        """Number of conversations that an epoch takes, each as often as it is taken."""
        return len(self) if self.mix is None else sum(count for _, count in self.mix)

    def shares(self) -> list[dict[str, str | int]]:
        """Of every part its path, its conversations, and how many of them an epoch takes."""
        sizes = self.mix or [(len(part), len(part)) for part in self.parts]
        return [
            {"manifest": str(part.source.path), "conversations": size, "per_epoch": count}
            for part, (size, count) in zip(self.parts, sizes, strict=True)
        ]

    def with_hotwords(self, words: Sequence[str], chosen: Mapping[str, Sequence[str]]) -> Conversations:
        """The conversations with the words that are chosen for each, by its id, out of ``words``."""
        ids = [[one.id for one in part] for part in self.parts]
        own = [{name: chosen[self.id_in(number, name)] for name in names} for number, names in enumerate(ids)]
        hotwords = [ChosenHotwords(tuple(words), some) for some in own]
        parts = tuple(part.with_hotwords(some) for part, some in zip(self.parts, hotwords, strict=True))
        return replace(self, parts=parts)

    def lengths(self, tokenizer: TextTokenizer, for_generation: bool = False) -> np.ndarray:
        """``[n, 2]``: positions and supervised text positions of every conversation's layout."""
        return np.concatenate([part.lengths(tokenizer, for_generation) for part in self.parts])

    def num_codes(self) -> np.ndarray:
        """``[n]``: number of audio codes per conversation, over all its audio messages."""
        return np.concatenate([part.num_codes() for part in self.parts])

    def set_names(self) -> Iterator[str]:
        """Name of every conversation's evaluation set; nothing unless there are several."""
        return chain.from_iterable([name] * len(part) for name, part in zip(self.names, self.parts, strict=False))

    def identity(self, identity_of: Callable[[Manifest], str] = manifest_identity) -> str:
        """Content digest, given that of a manifest: of one whole manifest its own."""
        parts = [identity_of(part) for part in self.parts]
        if len(parts) == 1 and self.mix is None:
            return parts[0]
        return digest_of([parts, self.mix, self.names if self.prefixed else None])


def read_training(
    data: DataConfig, tokens: TokenRange, tokenizer: TextTokenizer, prompt: PromptConfig | None = None
) -> Conversations:
    """The training manifests, or ``data.train_subset`` of their conversations; with answers, of any length.

    Args:
        prompt: options of the hot words; None: there are none.

    Their order makes no difference: manifests are in the order of their identities.

    Raises:
        ConfigError: one is not named, or there are too few conversations for the subset.
        DataError: one cannot be read, or a line breaks a rule.
    """
    weighted, words = parts_of_training(data.train_manifest, data.train_weights), read_drawn_hotwords(prompt)
    parts = [(_read(TRAIN, path, data, tokens, tokenizer, words), weight) for path, weight in weighted.items()]
    if len(parts) > 1:
        parts.sort(key=lambda part: manifest_identity(part[0]))
    manifests, weights = zip(*parts, strict=True)
    whole = Conversations(manifests, weights)
    return training_subset(whole, data.train_subset, data.train_subset_seed)


def read_evaluation(
    data: DataConfig, tokens: TokenRange, tokenizer: TextTokenizer, prompt: PromptConfig | None = None
) -> Conversations:
    """The evaluation sets; arguments and errors of ``read_training``.

    Their order makes no difference, nor do their names unless two sets share an id. Prompts have the whole list of hot
    words; or, where a first text decides (``prompt.retrieve``), those of training, for losses, until ``with_hotwords``
    gives them others.
    """
    sets, words = evaluation_sets(data.eval_manifest), read_hotwords(prompt)
    if prompt is not None and prompt.retrieves:
        words = read_drawn_hotwords(prompt)
    named = [(_read(EVAL, path, data, tokens, tokenizer, words), name) for name, path in sets.items()]
    if len(named) == 1:
        return Conversations((named[0][0],))
    # The same order under every prompt, so that trials with several prompts are scored on one set of references. Sets
    # of the same references share their ids, to which the names belong.
    named.sort(key=lambda part: (reference_identity(part[0]), part[1]))
    parts, names = zip(*named, strict=True)
    return Conversations(parts, names=names, prefixed=_share_an_id(parts))


def require_files(option: str, value: object) -> None:
    """Raise a ConfigError unless an option's value names files."""
    for path in manifest_paths(value):
        if not Path(path).is_file():
            rule = "must name a pretokenized manifest" + (", and there is no such file" if path else "")
            remedy = f"Write {option}=FILE{TOKENS}, as tokenize wrote it; `make demo` makes the demo's"
            raw = path.removesuffix(TOKENS) + ".jsonl"
            if path.endswith(TOKENS) and Path(raw).is_file():
                remedy = f"Run python -m kimi_audio_ft.tokenize manifests={raw} first, with the same model"
            raise ConfigError(option, path, rule, remedy)


def _read(
    option: str, path: str, data: DataConfig, tokens: TokenRange, tokenizer: TextTokenizer, hotwords: Hotwords | None
) -> Manifest:
    require(bool(path), option, path, "must name a pretokenized manifest", f"Write {option}=FILE.jsonl")
    manifest = read_manifest(path, data.audio_root, data.prompt, tokens, tokenizer, hotwords)
    require_references(manifest)
    return manifest


def _share_an_id(parts: Sequence[Manifest]) -> bool:
    """Whether two manifests have a conversation of the same id."""

    def ids(part: Manifest) -> np.ndarray:
        def make() -> Arrays:
            return {"ids": np.array([part.line(index)[1] for index in range(len(part))])}

        return remembered(part, {"kind": "ids"}, make)["ids"]

    joined = np.concatenate([ids(part) for part in parts])
    return len(np.unique(joined)) < len(joined)


# Parts that are trained on: nested subsets for learning curves over data size, and short conversations.


def training_subset(whole: Conversations, size: int | None, seed: int) -> Conversations:
    """Seeded random subset of ``size`` conversations in their order (None: all); smaller subsets nest in larger ones.

    They are drawn by recording (their ``group``, or id if they have none). ConfigError: there are fewer.
    """
    if size is None:
        return whole
    if size > len(whole):
        rule = f"{whole.called} holds {len(whole)} conversations"
        raise ConfigError("data.train_subset", size, rule, "Use fewer, or null for all of them")
    order = np.argsort(np.concatenate([drawing_keys(part, seed) for part in whole.parts]), kind="stable")
    return whole.select(np.sort(order[:size]))


def short_enough(whole: Conversations, tokenizer: TextTokenizer, limit: int) -> np.ndarray:
    """Indices of the conversations of at most ``limit`` positions; ConfigError: there is none."""
    positions = whole.lengths(tokenizer)[:, 0]
    if not (positions <= limit).any():
        rule = f"every conversation of {whole.called} is longer; the shortest has {positions.min()}"
        raise ConfigError("data.max_length", limit, rule, "Raise it")
    return np.flatnonzero(positions <= limit)
