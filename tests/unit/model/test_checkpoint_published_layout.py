"""Reading a checkpoint of the published layout: what is checked, what is never touched, and what memory it takes."""

from __future__ import annotations

import builtins
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM, WhisperFeatureExtractor
from kimi_audio_ft.model import checkpoint as weight_files
from kimi_audio_ft.model.checkpoint import check_parameter_count, file_of_tensor, read_header
from kimi_audio_ft.model.config import PARAMETERS_7B
from kimi_audio_ft.model.whisper import SHAPE_7B
from kimi_audio_ft.paths import TINY_MODEL
from tests.standin import INDEX, NEVER_OPENED, Standin


@pytest.fixture
def root(standin: Standin, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(standin.root, tmp_path / "base")
    return tmp_path / "base"


def refused(root: Path, expected: str, **options: Any) -> None:
    with pytest.raises(DataError, match=expected):
        KimiAudioForCausalLM.from_pretrained(root, **options)


def test_neither_pickle_nor_code_is_opened(standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = io.open

    def watched(file: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(str(file))
        return real(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr(io, "open", watched)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("torch.load was called"))
    KimiAudioForCausalLM.from_pretrained(standin.root)
    WhisperFeatureExtractor.from_pretrained(standin.root / "whisper-large-v3")
    assert any(name.endswith("config.json") for name in opened)
    assert not [name for name in opened if name.endswith((".py", ".pt", ".bin")) and str(standin.root) in name]
    assert all((standin.root / name).read_bytes().startswith(b"\x80\x04junk") for name in NEVER_OPENED)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"not a shard")])
def test_the_branch_is_not_read(root: Path, damage: Any) -> None:
    (shard,) = {path for name, path in file_of_tensor(root).items() if ".mimo_layers." in name}
    damage(shard)
    alone = KimiAudioForCausalLM.from_pretrained(root, audio_branch=False)
    whole = KimiAudioForCausalLM.from_pretrained(TINY_MODEL)
    assert not any("mimo" in name for name in alone.state_dict())
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in alone.state_dict().items())
    refused(root, rf"{shard.name}: (is not there|is not a readable safetensors file).*Download it again")


def test_total_size_must_be_that_of_the_shards(root: Path) -> None:
    index = json.loads((root / INDEX).read_text())
    right = index["metadata"]["total_size"]
    index["metadata"]["total_size"] += 2
    (root / INDEX).write_text(json.dumps(index))
    for branch in (True, False):
        expected = rf"says total_size {right + 2:,} bytes, but its shards declare {right:,}.*download both again"
        refused(root, expected, audio_branch=branch)


def test_a_tensor_that_the_index_does_not_name(root: Path) -> None:
    shard = root / "model-2-of-7.safetensors"
    save_file(load_file(shard) | {"model.extra": torch.zeros(1)}, shard)
    refused(root, rf"model-2-of-7\.safetensors: holds model\.extra, unknown to {INDEX}")


def test_only_the_rotary_strays_are_ignored(root: Path) -> None:
    index = json.loads((root / INDEX).read_text())
    del index["metadata"]
    names = index["weight_map"]
    names["model.layers.1.self_attn.rotary_emb.cos"] = names["model.layers.1.self_attn.rotary_emb.inv_freq"]
    (root / INDEX).write_text(json.dumps(index))
    refused(root, r"missing none; unexpected model\.layers\.1\.self_attn\.rotary_emb\.cos")


def test_a_cut_shard_says_by_how_much(root: Path) -> None:
    shard = root / "model-3-of-7.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-16])
    with pytest.raises(DataError, match=rf"declares {len(data):,} bytes, it has {len(data) - 16:,}"):
        read_header(shard)


def test_parameters_of_the_7b(monkeypatch: pytest.MonkeyPatch) -> None:
    config = KimiAudioConfig()
    assert config.is_7b and not KimiAudioConfig(hidden_size=128, num_attention_heads=4).is_7b
    with torch.device("meta"):
        whole = KimiAudioForCausalLM(config)
        whisper = WhisperFeatureExtractor(SHAPE_7B)
    check_parameter_count(whole, "decoder", Path("x"))
    check_parameter_count(whisper.encoder, "Whisper encoder", Path("x"))
    # 2 bytes each and 34 strays of 64 bf16 numbers are the published index's total_size.
    assert 2 * PARAMETERS_7B["decoder"] + 34 * 128 == 19_532_673_280
    with torch.device("meta"):
        config.kimia_mimo_layers = 0
        alone = KimiAudioForCausalLM(config)
    assert config.is_7b
    del alone.mimo_output, alone.model.mimo_norm
    check_parameter_count(alone, "decoder without audio branch", Path("x"))
    del alone.lm_head
    left = PARAMETERS_7B["decoder without audio branch"] - 168448 * 3584
    with pytest.raises(DataError, match=rf"has {left:,} parameters, the published one 7,764,266,496"):
        check_parameter_count(alone, "decoder without audio branch", Path("x"))


def test_counts_are_checked_while_reading(standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stand-in taken for the 7B, its parameters are too few."""
    monkeypatch.setattr(KimiAudioConfig, "is_7b", True)
    refused(standin.root, "parameters, the published one 9,766,334,464")
    refused(standin.root, "parameters, the published one 7,764,266,496", audio_branch=False)
    monkeypatch.setattr("kimi_audio_ft.model.whisper.SHAPE_7B", {"d_model": 96})
    with pytest.raises(DataError, match="parameters, the published one 636,968,960"):
        WhisperFeatureExtractor.from_pretrained(standin.root / "whisper-large-v3")
    assert weight_files.PARAMETERS_7B is PARAMETERS_7B


MEASURE = """
import sys, torch
from torch import nn
from pathlib import Path
from kimi_audio_ft.model.checkpoint import load_tensors

def kb(field):
    return int(next(l for l in open("/proc/self/status") if l.startswith(field)).split()[1])

def mapped():
    return kb("RssFile") + kb("RssShmem")  # the latter of a file on a tmpfs

with torch.device("meta"):
    part = nn.Linear(4096, 16384, bias=False)
torch.zeros(4, dtype=torch.bfloat16).float().sum()
for dtype, bits in ((torch.bfloat16, torch.int16), (torch.float32, torch.int32)):
    with torch.device("meta"):
        part = nn.Linear(4096, 16384, bias=False)
    before = kb("RssAnon"), mapped()
    load_tensors(part, Path(sys.argv[1]), lambda name: name, dtype, "cpu")
    part.weight.view(bits).max()  # touches every page
    print(kb("RssAnon") - before[0], mapped() - before[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="private memory is read from /proc")
def test_tensors_of_the_files_dtype_are_the_mapped_file(tmp_path: Path) -> None:
    """128 MiB of bf16 weights take no private memory; cast to float32 they take their 256 MiB, once."""
    save_file({"weight": torch.ones(16384, 4096, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")

    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (private, mapped), (private_float32, _) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert private < 16 * 1024 and mapped > 120 * 1024
    assert 250 * 1024 < private_float32 < 300 * 1024
