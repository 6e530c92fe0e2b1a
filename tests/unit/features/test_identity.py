"""Identities of the encoders: which files they depend on, and which not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.features.identity import encoder_identity, features_of
from kimi_audio_ft.model.files import WHISPER_NAME, ModelFiles
from kimi_audio_ft.paths import TINY_MODEL


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    """Small folders in place of the encoders', for identities never look into weights."""
    whisper, tokenizer = tmp_path / WHISPER_NAME, tmp_path / "glm-4-voice-tokenizer"
    for folder in (whisper, tokenizer):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(folder.name.encode())
    (whisper / "config.json").write_text(json.dumps({"d_model": 12}), encoding="utf-8")
    return ModelFiles(tmp_path, whisper, tokenizer)


def test_a_feature_row_is_four_rows_of_whisper_wide(files: ModelFiles) -> None:
    identity, width = encoder_identity(files, features=True)
    assert set(identity) == {"speech_tokenizer", "whisper"} and width == 48


def test_codes_alone_do_not_depend_on_whisper(files: ModelFiles) -> None:
    both, _ = encoder_identity(files, features=True)
    shutil.rmtree(files.whisper)
    assert encoder_identity(files, features=False) == ({"speech_tokenizer": both["speech_tokenizer"]}, 0)


@pytest.mark.parametrize("changed", ["whisper", "speech_tokenizer"])
def test_other_weights_are_another_store(files: ModelFiles, changed: str) -> None:
    name, (identity, _) = features_of(files, "bfloat16"), encoder_identity(files, features=True)
    (getattr(files, changed) / "model.safetensors").write_bytes(b"other weights")
    other, _ = encoder_identity(files, features=True)
    assert {part for part in identity if identity[part] != other[part]} == {changed}
    assert features_of(files, "bfloat16") != name


def test_the_number_format_is_another_store_and_the_folders_names_are_not(files: ModelFiles, tmp_path: Path) -> None:
    assert features_of(files, "bfloat16") != features_of(files, "float32")
    whisper = shutil.copytree(files.whisper, tmp_path / "copy" / WHISPER_NAME)
    tokenizer = shutil.copytree(files.speech_tokenizer, tmp_path / "copy" / "tokenizer")
    assert features_of(ModelFiles(tmp_path, whisper, tokenizer), "float32") == features_of(files, "float32")


def test_a_missing_encoder_names_its_option(files: ModelFiles) -> None:
    shutil.rmtree(files.whisper)
    with pytest.raises(ConfigError, match=r"^model\.path=.*whisper-large-v3 must be a folder"):
        encoder_identity(files, features=True)
    shutil.rmtree(files.speech_tokenizer)
    with pytest.raises(ConfigError, match=r"^model\.speech_tokenizer=.*must be a folder"):
        encoder_identity(files, features=False)


def test_the_embedded_models_features_are_named_without_pytorch() -> None:
    code = (
        "import sys; from kimi_audio_ft.config.train import ModelConfig\n"
        "from kimi_audio_ft.features.identity import encoder_identity; from kimi_audio_ft.model.files import locate\n"
        "print(encoder_identity(locate(ModelConfig(path='tiny')), True)[1], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    d_model = json.loads((TINY_MODEL / WHISPER_NAME / "config.json").read_text(encoding="utf-8"))["d_model"]
    assert done.stdout.split() == [str(4 * d_model), "False"]
