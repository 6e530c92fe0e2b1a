"""Whether adapters, and what came of them, are the same: bit for bit where packs promise that, else within rounding."""

from __future__ import annotations

import math
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import LoraConfig, ModelConfig
from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.lora.pack import BIT_FOR_BIT, Pack
from tests.numerics.closeness import UNIT, assert_losses_close

# How far adapters may be apart where only the order of sums differs, as a part of their norm, and so their
# losses and the norms of gradients.
ROUNDING = {"float32": 1e-5, "bfloat16": 1e-2}
NORMS = {"float32": 1e-3, "bfloat16": 0.1}
LOSS_UNITS = {"float32": 16, "bfloat16": 1e-2 / UNIT}


def tensors(folder: Path) -> dict[str, Tensor]:
    """An adapter's tensors."""
    return load_file(folder / "adapter_model.safetensors")


def differing(folder: Path, other: Path) -> dict[str, str]:
    """Tensors that are not equal bit for bit, each with how many of its values differ, and by how much at most."""
    ours, theirs = tensors(folder), tensors(other)
    assert ours.keys() == theirs.keys()
    return {key: _difference(ours[key], theirs[key]) for key in ours if not torch.equal(ours[key], theirs[key])}


def _difference(ours: Tensor, theirs: Tensor) -> str:
    if ours.shape != theirs.shape:
        return f"{tuple(ours.shape)}, not {tuple(theirs.shape)}"
    largest = (ours.double() - theirs.double()).abs().max()
    return f"{int((ours != theirs).sum())} of {ours.numel()} values, by {largest:.3g} at most"


def assert_same_bits(folder: Path, other: Path) -> None:
    """The same adapter and the same curves."""
    assert differing(folder, other) == {}
    assert (folder / "curves.jsonl").read_text() == (other / "curves.jsonl").read_text()


@cache
def packs_are_exact(dtype: str = "float32") -> bool:
    """Whether packs over the embedded model promise the bits of a training alone, on this processor."""
    base = Base(ModelConfig(dtype=dtype), "none", "cpu")
    with (
        base.new_adapters({name: (LoraConfig(), 1) for name in "xy"}) as model,
        closing(Pack(model, ["x", "y"], "slice")) as pack,
    ):
        return pack.equals_alone() == BIT_FOR_BIT


def assert_same(folder: Path, other: Path, dtype: str = "float32") -> None:
    """The same bits where packs promise them; elsewhere the same within rounding, which steps of AdamW magnify."""
    if packs_are_exact(dtype):
        assert_same_bits(folder, other)
    else:
        assert_within_rounding(folder, other, dtype)


def assert_within_rounding(folder: Path, other: Path, dtype: str = "float32") -> None:
    """Adapters whose difference is small beside them, and curves that differ in the last places of losses."""
    assert tensors(folder).keys() == tensors(other).keys()
    assert distance(folder, other) < ROUNDING[dtype]
    ours, theirs = (read_jsonl(place / "curves.jsonl") for place in (folder, other))
    floats = {"loss": 0, "grad_norm": 0}
    assert [row | floats for row in ours] == [row | floats for row in theirs]
    norms = [[row["grad_norm"] for row in rows if row["split"] == "train"] for rows in (ours, theirs)]
    assert norms[0] == pytest.approx(norms[1], rel=NORMS[dtype])
    assert_losses_close([row["loss"] for row in ours], [row["loss"] for row in theirs], LOSS_UNITS[dtype])


def is_another(folder: Path, other: Path) -> bool:
    """Whether ``assert_same`` sees a difference."""
    try:
        assert_same(folder, other)
    except AssertionError:
        return True
    return False


def distance(folder: Path, other: Path) -> float:
    """Norm of the difference of two adapters, as a part of the norm."""
    one, two = (torch.cat([v.double().flatten() for _, v in sorted(tensors(f).items())]) for f in (folder, other))
    return float((one - two).norm() / two.norm())


def assert_same_adapters(store: Path, other: Path) -> None:
    """Two stores hold the same adapters by name and content."""
    ours, theirs = ({meta.parent.name for meta in (s / "adapter").glob("[!.]*/product.json")} for s in (store, other))
    assert ours == theirs
    for name in ours:
        assert_same(store / "adapter" / name, other / "adapter" / name)


def assert_same_results(ours: Any, theirs: Any) -> None:
    """Equal records of trials; where packs do not promise the bits, numbers may differ as adapters may."""
    if packs_are_exact():
        assert ours == theirs
    else:
        assert _like(ours, theirs) == theirs


def _like(ours: Any, theirs: Any) -> Any:
    """``ours`` with the numbers of ``theirs`` where they are that close."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return {key: _like(value, theirs.get(key)) for key, value in ours.items()}
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [_like(*pair) for pair in zip(ours, theirs, strict=True)]
    if isinstance(ours, float) and isinstance(theirs, float):
        return theirs if math.isclose(ours, theirs, rel_tol=ROUNDING["float32"]) else ours
    return ours
