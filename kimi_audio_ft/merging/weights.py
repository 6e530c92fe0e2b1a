"""Streaming of a base's tensors, merged with an adapter's updates, into new files: never a whole tensor in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import torch
from peft.tuners import lora
from peft.tuners.lora.variants import DoraLinearVariant
from safetensors import safe_open
from torch import Tensor

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.lora.adapter import ONE, PEFT_PREFIX, read_adapter, with_tensors
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.model.checkpoint import (
    STRAY_SUFFIX,
    TensorInfo,
    check_headers,
    file_of_tensor,
    read_header,
    write_in_pieces,
    write_shards,
)

# Numbers of a tensor that are in memory at once: 64 MiB in float32.
_PIECE_NUMBERS = 2**24


class Change(Protocol):
    """What is done to a tensor while it is written."""

    def merged(self, rows: Tensor, start: int) -> Tensor:
        """Rows ``start, start + 1, ...`` as they are written, but for rounding, from the base's."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the base, or rows of one: its file, its name in it, the written shape, and the dtype there or in the
    merged file.
    """

    path: Path
    stored_name: str
    info: TensorInfo
    first_row: int = 0


def decoder_sources(root: Path) -> dict[str, StoredTensor]:
    """The base's tensors in the order of its shards, without the stray rotary tables."""
    return {name: source for name, source in _sources(root).items() if not name.endswith(STRAY_SUFFIX)}


def whisper_sources(folder: Path) -> dict[str, StoredTensor]:
    """Tensors of the Whisper folder by their published names ``model.encoder.*`` and ``model.decoder.*``."""
    found = _sources(folder)
    return {f"model.{name}" if name.startswith(("encoder.", "decoder.")) else name: found[name] for name in found}


def _sources(folder: Path) -> dict[str, StoredTensor]:
    files = file_of_tensor(folder)
    check_headers(folder, set(files.values()))
    headers = {path: read_header(path) for path in set(files.values())}
    return {name: StoredTensor(path, name, headers[path][name]) for name, path in files.items()}


def write_decoder(
    folder: Path,
    sources: Mapping[str, StoredTensor],
    updates: Mapping[str, Change],
    most_bytes: float,
    advance: Callable[[int], None],
) -> None:
    """Write shards ``model-1-of-N.safetensors`` and, when all are there, their index; see ``write_merged``."""

    def write(path: Path, names: list[str]) -> None:
        write_merged(path, {name: sources[name] for name in names}, updates, advance)

    write_shards(folder, {name: source.info.nbytes for name, source in sources.items()}, most_bytes, write)


def write_merged(
    path: Path, sources: Mapping[str, StoredTensor], updates: Mapping[str, Change], advance: Callable[[int], None]
) -> None:
    """Write tensors, copied or cast, or changed by their ``updates``; ``advance`` is called with bytes written."""
    opened = lru_cache(maxsize=1)(partial(safe_open, framework="pt"))

    def pieces_of(name: str) -> Iterator[Tensor]:
        """Consecutive rows of a tensor: merged in float32 and rounded once, or as they are."""
        source, update = sources[name], updates.get(name)
        stored = opened(source.path).get_slice(source.stored_name)
        rows = max(1, _PIECE_NUMBERS // max(1, math.prod(source.info.shape[1:])))
        for start in range(0, source.info.shape[0], rows):
            stop = min(start + rows, source.info.shape[0])
            piece = stored[source.first_row + start : source.first_row + stop]
            piece = (piece if update is None else update.merged(piece, start)).to(source.info.dtype)
            yield piece
            advance(piece.nbytes)

    write_in_pieces(path, {name: source.info for name, source in sources.items()}, pieces_of)


@dataclass(frozen=True)
class Update:
    """The change of one linear's weight ``[out, in]`` (arXiv 2106.09685; with magnitude, DoRA, 2402.09353).

    a: ``[r, in]``, b: ``[out, r]``, magnitude: ``[out]`` or None, all float32. scaling: PEFT's, from alpha and rank.
    """

    a: Tensor
    b: Tensor
    scaling: float
    magnitude: Tensor | None = None

    def merged(self, rows: Tensor, start: int) -> Tensor:
        """Rows ``start, start + 1, ...`` of the merged weight in float32, from the base's in any dtype.

        The operations and their order are those of PEFT's own merge in float32.
        """
        some = slice(start, start + len(rows))
        weight = rows.float() + (self.b[some] @ self.a) * self.scaling
        if self.magnitude is not None:
            factor = self.magnitude[some] / torch.linalg.norm(weight, dim=1)
            weight = factor[:, None] * weight
        return weight


def read_updates(model: KimiAudioForCausalLM, folder: Path) -> dict[str, Update]:
    """Updates of a saved adapter by the name of the weight they change.

    Args:
        model: the base, best on the meta device; PEFT puts the adapter on it to find targets, ranks and scales.

    Raises:
        DataError: the folder holds no adapter for this base, or one that changes more than weights of linears.
    """
    config, tensors = read_adapter(folder)
    adapted = with_tensors(model, config, tensors, folder)
    updates: dict[str, Update] = {}
    used = 0
    for path, module in adapted.named_modules():
        name = path.removeprefix(PEFT_PREFIX)
        if not isinstance(module, lora.LoraLayer):
            continue
        own = {key: value.float() for key, value in tensors.items() if key.startswith(f"{path}.")}
        update = _update_of(module, own)
        if update is None:
            remedy = "Merge it with PEFT's merge_and_unload"
            raise DataError(folder, f"changes {name} in a way that is not merged here (not plain LoRA or DoRA)", remedy)
        updates[f"{name}.weight"] = update
        used += len(own)
    if used != len(tensors):
        problem = "holds tensors besides those of LoRA, which are not merged here (modules_to_save, biases)"
        raise DataError(folder, problem, "Merge it with PEFT's merge_and_unload")
    return updates


def _update_of(module: lora.LoraLayer, tensors: dict[str, Tensor]) -> Update | None:
    """The update of a PEFT layer from its tensors; None for kinds that are not merged here."""
    if not isinstance(module, lora.Linear) or module.fan_in_fan_out or module.lora_bias[ONE]:
        return None
    is_dora = isinstance(module.lora_variant.get(ONE), DoraLinearVariant)
    if len(tensors) != (3 if is_dora else 2) or (ONE in module.lora_variant) != is_dora:
        return None
    a, b, *magnitude = (tensors[name] for name in sorted(tensors))
    return Update(a, b, float(module.scaling[ONE]), magnitude[0] if is_dora else None)
