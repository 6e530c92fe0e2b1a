"""Model folders: locating and identifying a checkpoint's parts, and downloading them by hub id."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.train import ModelConfig
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.files import INDEX_NAME, locked
from kimi_audio_ft.paths import TINY_MODEL, expanded
from kimi_audio_ft.store.digests import file_digest, folder_digest

WHISPER_NAME = "whisper-large-v3"
# In a Qwen2 folder of merge target=qwen2: what makes prompt embeddings for it.
FRONT_END_NAME = "front_end"
# In a folder that merge wrote: what it was made of, and the prompt of its adapter.
MERGE_RECORD = "merge.json"
# Python of the published checkpoint: merged folders need it for the published client. It is copied, never run.
CODE = ("configuration_moonshot_kimia.py", "modeling_moonshot_kimia.py", "tokenization_kimia.py")
# What the published config.json and tokenizer_config.json say of it, without which the client does not look there.
AUTO_MAP = {
    "AutoConfig": "configuration_moonshot_kimia.KimiAudioConfig",
    "AutoModel": "modeling_moonshot_kimia.MoonshotKimiaModel",
    "AutoModelForCausalLM": "modeling_moonshot_kimia.MoonshotKimiaForCausalLM",
}
TOKENIZER_AUTO_MAP = {"AutoTokenizer": ["tokenization_kimia.TikTokenTokenizer", None]}
# Size and sha256 of the model.safetensors that OpenAI published under the same name.
OPENAI_WHISPER = (3_087_130_976, "a8e94b85976e5864ba3e9525c7e6c83b2a1eca42d4b797a0c7c24d778e40fd95")
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
        """Digest of the base: config, weights and text tokenizer."""
        return folder_digest(self.root)


def locate(settings: ModelConfig) -> ModelFiles:
    """Folders of a model config (hub ids: cached or downloaded); ConfigError if one is missing or in another layout."""
    base = HubFiles(  # 22.6 of the published 42.6 GB, without vocoder
        "model.path",
        settings.path,
        settings.revision,
        allow=("*.safetensors", INDEX_NAME, "*.json", "tiktoken.model", "whisper-large-v3/*", *CODE),
        skip=("audio_detokenizer/*", "vocoder/*", "*.pt", "*.bin"),
        required=("tiktoken.model", "whisper-large-v3/config.json", "whisper-large-v3/model.safetensors"),
    )
    root = TINY_MODEL if settings.path == "tiny" else base.fetch()
    if not (root / "config.json").is_file():
        rule = f"must be 'tiny', a hub id or a checkpoint folder with a config.json; there is none in {root}"
        raise ConfigError("model.path", settings.path, rule, "Download the checkpoint and give its folder")
    _refuse_openai_whisper(settings.path, root / WHISPER_NAME)
    speech_tokenizer = root / "glm-4-voice-tokenizer"
    if settings.speech_tokenizer is not None:
        files = ("*.json", "*.safetensors")
        speech_tokenizer = HubFiles("model.speech_tokenizer", settings.speech_tokenizer, None, allow=files).fetch()
    return ModelFiles(root, root / WHISPER_NAME, speech_tokenizer)


def _refuse_openai_whisper(option_value: str, folder: Path) -> None:
    """Reject OpenAI's own file, by size and digest; converted copies are not recognised."""
    weights = folder / "model.safetensors"
    size, digest = OPENAI_WHISPER
    if weights.is_file() and weights.stat().st_size == size and file_digest(weights) == digest:
        raise ConfigError("model.path", option_value, f"{weights} is OpenAI's file", _OWN_WHISPER)


def require_folder(option: str, folder: Path, what: str) -> Path:
    """The folder if it exists, or a ConfigError that names its option."""
    if not folder.is_dir():
        remedy = _OWN_WHISPER if folder.name == WHISPER_NAME else "Download it there"
        raise ConfigError(option, str(folder), f"{what} must be a folder, and there is none", remedy)
    return folder


def is_hub_id(path: str) -> bool:
    """Whether a value that is no local folder has the form ``organisation/name``."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path)) and not Path(path).is_dir()


@dataclass(frozen=True)
class HubFiles:
    """Files of a hub repository, or of a local folder, named by an option.

    allow, skip: patterns in which ``*`` also matches ``/``. required: files of a complete download besides
    ``config.json`` and the shards of the index.
    """

    option: str
    repo: str
    revision: str | None
    allow: tuple[str, ...]
    skip: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    def fetch(self) -> Path:
        """The local folder; or that of the hub's files, from the cache or downloaded by one process at a time.

        A complete cached copy is used without network access; set a revision for a newer one.

        Raises:
            ConfigError: the download fails, or the disk is too small; names the option and the remedy.
        """
        if not is_hub_id(self.repo):
            return expanded(self.repo).resolve()
        from huggingface_hub.constants import HF_HUB_CACHE

        if (have := self._in_cache()) is not None:
            return have
        lock = Path(HF_HUB_CACHE) / f".kimi_audio_ft.{self.repo.replace('/', '--')}.lock"
        try:
            with locked(lock):
                return self._in_cache() or self._download(Path(HF_HUB_CACHE))
        except OSError as error:
            remedy = "Name a writable folder in HF_HOME, or download by hand and give the folder"
            raise ConfigError(self.option, self.repo, f"cannot be downloaded ({error})", remedy) from None

    def _snapshot(self, **options: Any) -> Any:
        import huggingface_hub

        allow, skip = list(self.allow), list(self.skip)
        return huggingface_hub.snapshot_download(
            self.repo, revision=self.revision, allow_patterns=allow, ignore_patterns=skip, **options
        )

    def _in_cache(self) -> Path | None:
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(self._snapshot(local_files_only=True))
        except (LocalEntryNotFoundError, ValueError):
            return None
        return folder if self._complete(folder) else None

    def _complete(self, folder: Path) -> bool:
        """Whether all needed files have been downloaded."""
        from kimi_audio_ft.model.checkpoint import file_of_tensor

        try:
            weights = set(file_of_tensor(folder).values())
        except DataError:
            return False
        return all(path.is_file() for path in (*weights, *(folder / name for name in ("config.json", *self.required))))

    def _download(self, cache: Path) -> Path:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            listed = self._snapshot(dry_run=True)
            size = sum(file.file_size for file in listed if file.will_download)
            free = shutil.disk_usage(cache).free
            if size > free:
                rule = f"needs {size / 1e9:.1f} GB in {cache}, where {free / 1e9:.1f} GB are free"
                raise ConfigError(self.option, self.repo, rule, "Free space there, or set HF_HOME to a larger disk")
            print(f"downloading {self.repo}: {len(listed)} files, {size / 1e9:.1f} GB, to {cache}", flush=True)
            folder = Path(self._snapshot())
        except (HfHubHTTPError, OSError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            reason = " ".join(str(error).split())[:200]
            rule = f"is neither a folder here nor a hub repository that can be downloaded now ({reason})"
            files = f"{', '.join(self.allow)}" + (f" without {', '.join(self.skip)}" if self.skip else "")
            remedy = f"Download {self.repo} where there is a network ({files}), and set {self.option}=FOLDER"
            raise ConfigError(self.option, self.repo, rule, remedy) from None
        if not self._complete(folder):
            rule = f"lacks files that it must have, in {folder}"
            raise ConfigError(self.option, self.repo, rule, "Check the repository's name and the revision")
        return folder
