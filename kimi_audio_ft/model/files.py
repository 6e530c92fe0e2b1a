"""Where the parts of a checkpoint lie, and what identifies them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.schema import ModelConfig
from kimi_audio_ft.signature import folder_digest


@dataclass(frozen=True)
class ModelFiles:
    """Folders of the base, its Whisper encoder and the speech tokenizer."""

    root: Path
    whisper: Path
    speech_tokenizer: Path

    def identity(self) -> str:
        """Identity of the base: config, weights and text tokenizer."""
        return folder_digest(self.root)


def locate(settings: ModelConfig) -> ModelFiles:
    """The folders that a model config names.

    Raises:
        ConfigError: a folder is not there, with the option to set.
    """
    root = TINY_MODEL if settings.path == "tiny" else Path(settings.path).expanduser().resolve()
    if not (root / "config.json").is_file():
        rule = f"must be 'tiny' or a checkpoint folder with a config.json; there is none in {root}"
        raise ConfigError("model.path", settings.path, rule, "Download the checkpoint and give its folder")
    own = settings.speech_tokenizer
    speech_tokenizer = Path(own).expanduser().resolve() if own else root / "glm-4-voice-tokenizer"
    return ModelFiles(root, root / "whisper-large-v3", speech_tokenizer)


def require_folder(option: str, folder: Path, what: str) -> Path:
    """The folder, or a ConfigError naming the option that places it."""
    if not folder.is_dir():
        raise ConfigError(option, str(folder), f"{what} must be a folder, and there is none", "Download it there")
    return folder
