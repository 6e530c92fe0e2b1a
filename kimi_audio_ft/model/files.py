"""Where the parts of a checkpoint lie, and what identifies them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kimi_audio_ft.config.train import ModelConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.model.hub import base_files, is_hub_id, speech_tokenizer_files
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.store.digests import file_digest, folder_digest

WHISPER_NAME = "whisper-large-v3"
# Size and sha256 of the model.safetensors that OpenAI published under the same name.
_OPENAI_WHISPER = (3_087_130_976, "a8e94b85976e5864ba3e9525c7e6c83b2a1eca42d4b797a0c7c24d778e40fd95")
_OWN_WHISPER = (
    "Take the folder of the Kimi-Audio checkpoint itself. OpenAI's whisper-large-v3 must not stand in for it: "
    "Kimi-Audio was tuned together with its encoder (technical report), so OpenAI's features mean something else to it"
)


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
    """The folders that a model config names; hub ids are downloaded unless they are in the cache.

    Raises:
        ConfigError: a folder is not there or is not Kimi-Audio's own, with the option to set.
    """
    if settings.path == "tiny":
        root = TINY_MODEL
    elif is_hub_id(settings.path):
        root = base_files(settings.path, settings.revision).fetch()
    else:
        root = Path(settings.path).expanduser().resolve()
    if not (root / "config.json").is_file():
        rule = f"must be 'tiny', a hub id or a checkpoint folder with a config.json; there is none in {root}"
        raise ConfigError("model.path", settings.path, rule, "Download the checkpoint and give its folder")
    _refuse_openai_whisper(settings.path, root / WHISPER_NAME)
    own = settings.speech_tokenizer
    if own is None:
        speech_tokenizer = root / "glm-4-voice-tokenizer"
    elif is_hub_id(own):
        speech_tokenizer = speech_tokenizer_files(own).fetch()
    else:
        speech_tokenizer = Path(own).expanduser().resolve()
    return ModelFiles(root, root / WHISPER_NAME, speech_tokenizer)


def _refuse_openai_whisper(option_value: str, folder: Path) -> None:
    """Know OpenAI's file by its size and, when that agrees, its digest; converted copies of it are not recognised."""
    weights = folder / "model.safetensors"
    size, digest = _OPENAI_WHISPER
    if weights.is_file() and weights.stat().st_size == size and file_digest(weights) == digest:
        raise ConfigError("model.path", option_value, f"{weights} is OpenAI's file", _OWN_WHISPER)


def require_folder(option: str, folder: Path, what: str) -> Path:
    """The folder, or a ConfigError naming the option that places it."""
    if not folder.is_dir():
        remedy = _OWN_WHISPER if folder.name == WHISPER_NAME else "Download it there"
        raise ConfigError(option, str(folder), f"{what} must be a folder, and there is none", remedy)
    return folder
