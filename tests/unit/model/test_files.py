"""Hub ids: what is downloaded of a repository, when, and what an offline machine is told. The network is a folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from kimi_audio_ft.config.train import ModelConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.model import files
from kimi_audio_ft.model.files import CODE, ModelFiles, is_hub_id, locate, require_folder
from kimi_audio_ft.store.digests import file_digest
from tests.standin import Standin

BASE, TOKENIZER = "moonshotai/Kimi-Audio-7B-Instruct", "THUDM/glm-4-voice-tokenizer"


@dataclass
class Network:
    """``snapshot_download`` over folders: the same arguments, patterns and dry run as the real one."""

    repositories: dict[str, Path]
    cache: Path
    online: bool = True
    downloads: list[tuple[str, str | None]] = field(default_factory=list)
    file_bytes: int | None = None

    def snapshot_download(
        self,
        repo_id: str,
        revision: str | None,
        allow_patterns: list[str],
        ignore_patterns: list[str],
        local_files_only: bool = False,
        dry_run: bool = False,
    ) -> Any:
        place = self.cache / repo_id / (revision or "main")
        if local_files_only:
            if not place.is_dir():
                raise LocalEntryNotFoundError("not cached")
            return str(place)
        if not self.online:
            raise LocalEntryNotFoundError("no connection")
        source = self.repositories[repo_id]
        names = [str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()]
        names = [name for name in names if any(fnmatch(name, pattern) for pattern in allow_patterns)]
        names = [name for name in names if not any(fnmatch(name, pattern) for pattern in ignore_patterns)]
        if dry_run:
            sizes = [self.file_bytes or (source / name).stat().st_size for name in names]
            return [SimpleNamespace(file_size=size, will_download=True) for size in sizes]
        for name in names:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, place / name)
        self.downloads.append((repo_id, revision))
        return str(place)


@pytest.fixture
def network(standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network({BASE: standin.root, TOKENIZER: standin.speech_tokenizer}, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return made


def by_id(**options: Any) -> ModelFiles:
    return locate(ModelConfig(path=BASE, speech_tokenizer=TOKENIZER, **options))


def test_only_what_is_read_is_downloaded(
    network: Network, standin: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    found = by_id()
    names = {str(path.relative_to(found.root)) for path in found.root.rglob("*") if path.is_file()}
    shards = {path.name for path in standin.root.glob("*.safetensors")}
    assert names == shards | {
        *("config.json", "model.safetensors.index.json", "tiktoken.model", "tokenizer_config.json"),
        *("special_tokens_map.json", *CODE),  # the code for other clients
        *(f"whisper-large-v3/{name}" for name in ("config.json", "preprocessor_config.json", "model.safetensors")),
    }
    assert found.whisper == found.root / "whisper-large-v3" and found.speech_tokenizer.is_dir()
    assert found.identity() == locate(ModelConfig(path=str(standin.root))).identity()
    size = sum((standin.root / name).stat().st_size for name in names)
    said = capsys.readouterr().out
    assert f"downloading {BASE}: {len(names)} files, {size / 1e9:.1f} GB, to {network.cache}" in said


def test_once_and_then_without_the_network(network: Network) -> None:
    by_id()
    network.online = False
    by_id()
    assert network.downloads == [(BASE, None), (TOKENIZER, None)]


def test_an_interrupted_download_goes_on(network: Network) -> None:
    found = by_id()
    for lost in (found.root / "model-3-of-7.safetensors", found.whisper / "model.safetensors"):
        lost.unlink()
        assert by_id().root == found.root and lost.is_file()
    assert network.downloads.count((BASE, None)) == 3


def test_a_revision_is_passed_on(network: Network) -> None:
    assert by_id(revision="9a82a84c").root.name == "9a82a84c"
    assert network.downloads == [(BASE, "9a82a84c"), (TOKENIZER, None)]


def test_offline_says_what_to_download_and_which_option_to_set(network: Network) -> None:
    network.online = False
    with pytest.raises(
        ConfigError,
        match=rf"model\.path='{BASE}': is neither a folder.*whisper-large-v3/\*.*without .*"
        r"vocoder/\*.*set model\.path=FOLDER",
    ):
        by_id()
    network.online = True
    by_id()
    shutil.rmtree(network.cache / TOKENIZER)
    network.online = False
    with pytest.raises(
        ConfigError, match=rf"model\.speech_tokenizer='{TOKENIZER}'.*set model\.speech_tokenizer=FOLDER"
    ):
        by_id()


def test_a_small_disk_is_refused_before(network: Network) -> None:
    network.file_bytes = 10**15
    with pytest.raises(ConfigError, match=r"model\.path=.*needs \d+\.\d GB in .*cache, where .* GB are free.*HF_HOME"):
        by_id()
    assert not network.downloads


def test_a_repository_of_something_else(network: Network) -> None:
    network.repositories[BASE] = network.repositories[TOKENIZER]
    with pytest.raises(ConfigError, match=r"lacks files that it must have.*Check the repository's name"):
        by_id()


@pytest.mark.parametrize(
    ("path", "expected"),
    [(BASE, True), ("a/b", True), ("/a/b", False), ("./a/b", False), ("~/b", False), ("tiny", False), ("a/b/c", False)],
)
def test_what_looks_like_a_hub_id(path: str, expected: bool) -> None:
    assert is_hub_id(path) is expected


def test_a_folder_of_that_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / BASE).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id(BASE)


def test_openai_s_encoder_is_refused(standin: Standin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OpenAI's file is known by size and digest; here the stand-in's own takes its place."""
    weights = standin.root / "whisper-large-v3" / "model.safetensors"

    def check() -> ModelFiles:
        return locate(ModelConfig(path=str(standin.root)))

    assert check()
    monkeypatch.setattr(files, "OPENAI_WHISPER", (weights.stat().st_size, file_digest(weights)))
    with pytest.raises(ConfigError, match=r"model\.path=.*is OpenAI's file.*tuned together with its encoder"):
        check()
    monkeypatch.setattr(files, "OPENAI_WHISPER", (weights.stat().st_size, "0" * 64))
    assert check()
    with pytest.raises(ConfigError, match=r"there is none.*OpenAI's whisper-large-v3 must not stand in"):
        require_folder("model.path", tmp_path / "whisper-large-v3", "the checkpoint's whisper-large-v3")
