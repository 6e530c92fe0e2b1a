"""Checks of a merged folder: its files read back, and its logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.merging import merge as checkpoint
from kimi_audio_ft.merging.merge import merge
from kimi_audio_ft.merging.verify import check_files, check_logits
from kimi_audio_ft.merging.weights import decoder_sources, whisper_sources
from kimi_audio_ft.model.files import WHISPER_NAME, ModelFiles
from tests.standin import Standin
from tests.unit.merging.conftest import MakeAdapter, MakeConfig


def damage(folder: Path, change: Callable[[Tensor], Tensor]) -> None:
    """Rewrite the first tensor of a safetensors file."""
    file = min(folder.glob("*.safetensors"))
    tensors = load_file(file)
    name = min(tensors)
    save_file({**tensors, name: change(tensors[name]).contiguous()}, file)


@pytest.mark.parametrize("part", ["", WHISPER_NAME])
def test_files_must_hold_the_bases_shapes(standin: Standin, tmp_path: Path, part: str) -> None:
    folder = shutil.copytree(standin.root, tmp_path / "merged")
    base = {folder: decoder_sources(standin.root), folder / WHISPER_NAME: whisper_sources(standin.root / WHISPER_NAME)}
    check_files(base)
    damage(folder / part, lambda tensor: tensor + 1)
    check_files(base)  # other values, equal shapes: only logits show them
    damage(folder / part, lambda tensor: tensor.reshape(1, -1))
    with pytest.raises(DataError, match="does not hold the tensors that were written") as raised:
        check_files(base)
    assert raised.value.path == folder / part


def test_the_bare_base_is_no_merge(standin: Standin, make_adapter: MakeAdapter) -> None:
    files = ModelFiles(standin.root, standin.root / WHISPER_NAME, standin.speech_tokenizer)
    adapter = make_adapter()
    with pytest.raises(DataError, match=r"logits: merged differs .* at most 0\.001% is rounding.*Report this as a bug"):
        check_logits(files, standin.root, adapter, torch.float32, "true")
    assert "logits not compared (verify=false; " in check_logits(files, standin.root, adapter, torch.float32, "false")


def test_a_wrong_merge_is_noticed(
    make_adapter: MakeAdapter, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge that forgets the adapter has all names and shapes; only its logits tell."""
    adapter = make_adapter()
    monkeypatch.setattr(checkpoint.Merge, "updates", {})
    with pytest.raises(DataError, match=r"merged differs from base \+ adapter by .* at most 3\.000% is rounding"):
        merge(config(adapter))
    assert not Path(config(adapter).out).exists() and not list(Path(config(adapter).out).parent.glob(".out.*"))


def test_a_model_that_does_not_fit_is_not_compared(standin: Standin, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    """Headers tell its size: here that of 1.3 thousand million numbers, in a file that takes no room on the disk."""
    entry = {"dtype": "BF16", "shape": [1_300_000_000], "data_offsets": [0, 2_600_000_000]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    (tmp_path / "merged").mkdir()
    with (tmp_path / "merged" / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(file.tell() + 2_600_000_000)
    files = ModelFiles(standin.root, standin.root / WHISPER_NAME, standin.speech_tokenizer)
    line = check_logits(files, tmp_path / "merged", make_adapter(), torch.bfloat16, "auto")
    assert line.endswith("logits not compared (it takes 5 GB of memory; verify=true compares them)")
