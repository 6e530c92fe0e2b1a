"""A merged folder is whole or not there, and what is refused leaves none."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kimi_audio_ft.errors import ConfigError, DataError, UserError
from kimi_audio_ft.merging import weights
from kimi_audio_ft.merging.merge import merge
from kimi_audio_ft.model import KimiAudioForCausalLM
from tests.standin import Standin
from tests.unit.merging.conftest import MakeAdapter, MakeConfig

INDEX = "model.safetensors.index.json"


@pytest.mark.slow
def test_again_does_nothing_and_another_is_refused(
    make_adapter: MakeAdapter, config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_adapter()
    out = merge(config(adapter))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert merge(config(adapter, verify="false")) == out
    assert "holds this merge already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(ConfigError, match=r"out=.*holds another merge \(target differ\).*overwrite=true"):
        merge(config(adapter, target="qwen2"))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    merge(config(adapter, target="qwen2", overwrite=True))
    assert not list(out.glob("*.py")) and {path.name for path in out.parent.glob(".out.*")} == set()


def test_places_that_are_refused(
    standin: Standin, make_adapter: MakeAdapter, config: MakeConfig, tmp_path: Path
) -> None:
    adapter = make_adapter()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ConfigError, match="exists and does not hold a merge"):
        merge(config(adapter, out=str(tmp_path / "mine"), overwrite=True))
    for place in (standin.root, standin.root / "merged", standin.root.parent, adapter):
        with pytest.raises(ConfigError, match=r"must not lie in (model\.path|adapter)="):
            merge(config(adapter, out=str(place)))
    (tmp_path / "out").mkdir()
    assert merge(config(adapter)).is_dir()


def test_a_base_that_is_not_its_config_s(
    standin: Standin, make_adapter: MakeAdapter, config: MakeConfig, tmp_path: Path
) -> None:
    shutil.copytree(standin.root, tmp_path / "base")
    settings = config(make_adapter())
    settings.model.path = str(tmp_path / "base")
    fields = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(fields | {"kimia_mimo_layers": 2}))
    with pytest.raises(DataError, match=r"not those that config\.json asks for: model\.mimo_layers\.1\."):
        merge(settings)
    assert not (tmp_path / "out").exists()


def test_a_small_disk_is_refused_before(
    make_adapter: MakeAdapter, config: MakeConfig, disk_of: Callable[[int], Path]
) -> None:
    adapter, disk = make_adapter(), disk_of(2000)
    with pytest.raises(ConfigError, match=r"out=.*needs 0\.0\d GB, and 0\.00 GB are free in .*disk_of_2000k"):
        merge(config(adapter, out=str(disk / "out")))
    assert not [path for path in disk.rglob("*") if "safetensors" in path.name]


def test_a_disk_that_fills_up_keeps_nothing(
    make_adapter: MakeAdapter,
    config: MakeConfig,
    disk_of: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter, disk = make_adapter(), disk_of(3000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))  # before others filled it
    with pytest.raises(UserError, match=r"out=.*the disk is full; nothing half-written was kept"):
        merge(config(adapter, out=str(disk / "out")))
    assert not [path for path in disk.rglob("*") if path.name.startswith((".out", "out"))]


@pytest.mark.slow
def test_a_killed_merge_leaves_nothing_that_looks_complete(
    make_adapter: MakeAdapter, config: MakeConfig, tmp_path: Path
) -> None:
    settings, out = config(make_adapter(), shard_gb=0.001), tmp_path / "out"
    draft, write = tmp_path / ".out.draft", weights.write_merged

    def killed_after_two(path: Path, *arguments: Any) -> None:
        write(path, *arguments)
        if path.name == "model-2-of-5.safetensors":
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        weights.write_merged = killed_after_two
        merge(settings)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not out.exists()
    assert list(tmp_path.glob(".out.*")) == [draft]
    assert (draft / "model-2-of-5.safetensors").is_file()
    assert not (draft / INDEX).exists() and not (draft / "config.json").exists()
    assert merge(settings) == out
    assert not draft.exists()
    KimiAudioForCausalLM.from_pretrained(out)
