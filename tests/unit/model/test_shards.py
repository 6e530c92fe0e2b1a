"""Safetensors files written in pieces are what the library writes, and headers say what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.model.checkpoint import ShardWriter, TensorInfo, read_header

TENSORS = {
    "odd": torch.arange(3, dtype=torch.float32),
    "bf16": torch.randn(7, 5).to(torch.bfloat16),
    "conv": torch.randn(4, 3, 2).half(),
    "one": torch.tensor([5], dtype=torch.int64),
}
INFOS = {name: TensorInfo(value.dtype, tuple(value.shape)) for name, value in TENSORS.items()}


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    yield from tensor.split(2)


def test_written_in_pieces(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "a.safetensors", INFOS)
    for name, value in TENSORS.items():
        writer.write(name, pieces(value))
    writer.close()
    read = load_file(tmp_path / "a.safetensors")
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in TENSORS.items())
    assert read_header(tmp_path / "a.safetensors") == INFOS


def test_header_of_the_library_s_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "b.safetensors", metadata={"format": "pt"})
    assert read_header(tmp_path / "b.safetensors") == INFOS
    assert INFOS["bf16"].nbytes == 70


def test_a_tensor_that_is_not_whole_is_a_bug(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "c.safetensors", INFOS)
    with pytest.raises(AssertionError, match="odd"):
        writer.write("odd", pieces(TENSORS["odd"][:2]))
    writer.abandon()
    writer = ShardWriter(tmp_path / "d.safetensors", INFOS)
    with pytest.raises(AssertionError):
        writer.close()


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x0a\0\0\0\0\0\0\0" + b'{"a":{"b":1}}']
)
def test_what_is_no_safetensors_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.safetensors: is not a readable safetensors file.*Download it again"):
        read_header(tmp_path / "x.safetensors")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        read_header(tmp_path / "none")
