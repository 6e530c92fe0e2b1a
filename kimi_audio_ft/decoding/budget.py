"""How many utterances are decoded together where ``decoding.batch_size`` is auto: as many as a GPU's memory holds.

A step of decoding takes a GPU the same time for one row as for some hundreds: it reads all weights, and waits for the
host. The formula is ``cost.memory.DecodingMemory``: all answers may be as long as they are allowed to be, and each
setting's may differ from the others', so that a batch that is halved for want of memory is the exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import NATIVE, DecodingConfig, LoraConfig
from kimi_audio_ft.cost.counted import Counts
from kimi_audio_ft.cost.memory import CONTEXT_BYTES, DecodingMemory
from kimi_audio_ft.decoding.generate import SETTINGS_AT_ONCE, longest_answer
from kimi_audio_ft.decoding.request import DecodingRequest, batch_size_of
from kimi_audio_ft.features.encode import DTYPES, encoders_bytes, online_bytes
from kimi_audio_ft.model.checkpoint import read_config
from kimi_audio_ft.runtime.devices import memory_at_hand

AUTO_ON_CPU = 8
"""Utterances decoded together on a CPU, whose products are bound by arithmetic at few rows."""
MOST_ROWS = 1024
"""Rows of a batch above which a step's time grows in proportion to them (on an H100 about 700)."""
# Batches of each of several devices, at least: the one that has the longest keeps the others waiting for less.
_PER_DEVICE = 2
# Rank of the adapter that is counted in place of the one in a folder: it takes a hundredth of what the base does.
_RANK = 32


@dataclass(frozen=True)
class Budget:
    """Memory for batches that are decoded under settings.

    memory: bytes that may be used, the base included. context: those of them that the libraries take. positions: most
    of the model. most: utterances of a batch, whatever the memory.
    """

    need: DecodingMemory
    memory: float
    context: int
    settings: Sequence[DecodingConfig]
    positions: int
    most: int

    def each(self, prompt: int) -> float:
        """Bytes of an utterance of a batch whose longest prompt has so many positions, by the formula."""
        room, together = self.positions - prompt, min(len(self.settings), SETTINGS_AT_ONCE)
        tokens = max(longest_answer(setting, prompt, room) for setting in self.settings)
        return self.need.utterance(prompt, tokens, together, further=len(self.settings) > together)

    def utterances(self, prompt: int) -> int:
        """How many utterances fit into a batch whose longest prompt has so many positions.

        A power of two where memory decides, so that a little more or less of it changes no batch; at least 1.
        """
        fitting = self.need.utterances(self.memory, self.each(prompt), self.context)
        even = 1 << (max(1, fitting).bit_length() - 1)
        return max(1, min(even, self.most, MOST_ROWS // min(len(self.settings), SETTINGS_AT_ONCE)))


def budget_of(
    base: Base, requests: Sequence[DecodingRequest], utterances: int, adapted: bool = True, devices: int = 1
) -> Budget | None:
    """The budget of a decoding on a GPU; None where batches have a given size, or are a CPU's or vLLM's.

    Args:
        utterances: how many there are. adapted: an adapter is on the base.
        devices: GPUs that share them, each of which is taken to have as much memory as the first.
    """
    automatic = bool(requests) and batch_size_of(requests) == "auto" and requests[0].setting.engine == NATIVE
    if not automatic or base.device.type != "cuda":
        return None
    most = utterances if devices == 1 else -(-utterances // (_PER_DEVICE * devices))
    settings = [request.setting for request in requests]
    need = decoding_memory(base, adapted)
    return Budget(need, memory_at_hand(base.device), 0, settings, base.positions, most)


def together_here(base: Base, setting: DecodingConfig, prompt: int, most: int) -> int:
    """Recordings to decode together as they come: as many as the setting says, or as fit where it leaves that open.

    They fit beside the encoders, which are not loaded yet.

    Args:
        prompt: positions of the longest prompts. most: recordings, whatever the memory.
    """
    budget = budget_of(base, DecodingRequest(setting, 0).repeats(), most)
    if budget is not None:
        beside = encoders_bytes(base.files, base.settings.dtype, base.features)
        need = replace(budget.need, fixed=budget.need.fixed + beside)
        return replace(budget, need=need).utterances(prompt)
    return AUTO_ON_CPU if setting.batch_size == "auto" else int(setting.batch_size)


def predicted_budget(base: Base, setting: DecodingConfig, transcripts: int, memory: float, utterances: int) -> Budget:
    """The budget of so many transcripts of an adapter on another machine, of so many bytes of memory in all."""
    settings = [setting] * transcripts
    return Budget(decoding_memory(base, adapted=True), memory, CONTEXT_BYTES, settings, base.positions, utterances)


def decoding_memory(base: Base, adapted: bool) -> DecodingMemory:
    """What batches need of a base, alone or with an adapter."""
    model = base.settings
    counts = _counts(base.files.root, model.dtype, model.quantization is not None, base.plain, adapted)
    return DecodingMemory.of(counts, base.features != "none", online_bytes(base.files, model.dtype, base.features))


@lru_cache(maxsize=2)
def _counts(root: Path, dtype: str, quantized: bool, plain: bool, adapted: bool) -> Counts:
    lora = LoraConfig(r=_RANK) if adapted else None
    return Counts(read_config(root), lora, DTYPES[dtype], quantized=quantized, plain=plain)
