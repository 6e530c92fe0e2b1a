"""Merge an adapter into its base: a folder in the published layout, or a plain Qwen2, whole or not there at all."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from kimi_audio_ft.base import Base, find_adapter, on_meta, require_base
from kimi_audio_ft.config.commands import MergeConfig
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.features.encode import DTYPES
from kimi_audio_ft.files import read_json_object, write_json
from kimi_audio_ft.manifest.conversation import BLANK, MESSAGE_END, TEXT_EOS
from kimi_audio_ft.manifest.prompts import PROMPT, prompt_facts, recorded_prompt
from kimi_audio_ft.merging.folder import drafted, is_made, refuse_inside
from kimi_audio_ft.merging.prompt_embeddings import TABLE
from kimi_audio_ft.merging.qwen2 import BlankAdded, front_end, text_path, write_qwen2_configs
from kimi_audio_ft.merging.verify import check_files, check_logits
from kimi_audio_ft.merging.weights import (
    Change,
    StoredTensor,
    Update,
    decoder_sources,
    read_updates,
    whisper_sources,
    write_decoder,
    write_merged,
)
from kimi_audio_ft.model import TextTokenizer
from kimi_audio_ft.model.audio_frontend import PREPROCESSOR_CONFIG
from kimi_audio_ft.model.checkpoint import WEIGHTS_NAME, is_branch, read_config
from kimi_audio_ft.model.files import (
    AUTO_MAP,
    CODE,
    FRONT_END_NAME,
    MERGE_RECORD,
    TOKENIZER_AUTO_MAP,
    WHISPER_NAME,
    require_folder,
)
from kimi_audio_ft.model.text_tokenizer import BOS, CONFIG_NAME, EOS, RANKS_NAME, special_token_files
from kimi_audio_ft.paths import expanded
from kimi_audio_ft.runtime.signals import Interrupted
from kimi_audio_ft.store.digests import folder_digest
from kimi_audio_ft.store.make import META

# Raise it when the code changes what a merge writes.
# 2: the speech tokenizer of the base, and Whisper's merged tensors in the number format of the rest.
_VERSION = 2
# JSON and tokenizer files, generously.
_SIDE_BYTES = 50 * 10**6
_REMEDY = "Download the base again"


class Merge:
    """One merge, from its config: inputs and output folder."""

    def __init__(self, config: MergeConfig) -> None:
        self.config, self.dtype = config, DTYPES[config.dtype]
        self.out = expanded(config.out).resolve()
        self.base = Base(config.model, "none", "cpu")  # its weights are never loaded as a model here
        self.whisper = require_folder("model.path", self.base.files.whisper, "the checkpoint's whisper-large-v3")
        nothing: tuple[str | None, Path | None] = (None, None)
        self.adapter, self.adapter_folder = find_adapter(config.adapter) or nothing
        if self.adapter_folder is not None:
            require_base(self.base, self.adapter_folder, config.any_base)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything that the content of the merged folder depends on."""
        config, root = self.config, self.base.files.root
        named = "auto_map" in read_json_object(root / "config.json", _REMEDY)
        return {
            "version": _VERSION,
            "adapter": self.adapter,
            "base": self.base.identity,
            "whisper": folder_digest(self.whisper),
            "target": config.target,
            "code": [path.name for path in _code(root)],
            "dtype": config.dtype,
            "shard_gb": config.shard_gb,
        } | ({"auto_map": "added"} if config.target == "official" and not named and not _missing_code(root) else {})

    @property
    def prompt(self) -> str | None:
        """The prompt that the adapter, or the merged base, was trained with; None: unknown."""
        root, folder = self.base.files.root, self.adapter_folder
        return recorded_prompt(root / MERGE_RECORD if folder is None else folder / META)

    @cached_property
    def decoder(self) -> dict[str, StoredTensor]:
        """Tensors of the base's decoder, which must be exactly the config's, in the merged number format."""
        sources = decoder_sources(self.base.files.root)
        state = on_meta(self.base.files).state_dict().items()
        expected = {key: tuple(value.shape) for key, value in state if not key.startswith("whisper_model.")}
        given = {key: source.info.shape for key, source in sources.items()}
        odd = sorted(key for key in expected.keys() | given.keys() if expected.get(key) != given.get(key))
        if odd:
            problem = f"tensors are not those that config.json asks for: {', '.join(odd[:12])} ({len(odd)} such)"
            raise DataError(self.base.files.root, problem, "config.json and weights must be of the same model")
        return {key: replace(source, info=replace(source.info, dtype=self.dtype)) for key, source in sources.items()}

    @cached_property
    def files(self) -> dict[Path, dict[str, StoredTensor]]:
        """The tensors to write, by their folder inside of ``out``."""
        if self.config.target == "official":
            return {Path(): self.decoder, Path(WHISPER_NAME): self.encoder}
        front = front_end(self.decoder, read_config(self.base.files.root), self.blank)
        place = Path(FRONT_END_NAME)
        return {Path(): text_path(self.decoder), place: front, place / WHISPER_NAME: self.encoder}

    @property
    def blank(self) -> int:
        return self.base.tokenizer.special_tokens[BLANK]

    @cached_property
    def encoder(self) -> dict[str, StoredTensor]:
        """Tensors of the base's Whisper; in float32 those that are merged into such a checkpoint."""
        found = whisper_sources(self.whisper)
        if self.dtype != torch.float32:
            return found
        return {
            name: replace(source, info=replace(source.info, dtype=self.dtype)) if name in self.updates else source
            for name, source in found.items()
        }

    @cached_property
    def changes(self) -> dict[str, Change]:
        """The updates, and for Qwen2 the blank's row that its table has added."""
        added = {} if self.config.target == "official" else {TABLE: BlankAdded.of(self.decoder[TABLE], self.blank)}
        return {**self.updates, **added}

    @cached_property
    def updates(self) -> dict[str, Update]:
        """The adapter's updates by names of the published layout: ``model.layers.*``, Whisper's ``model.encoder.*``."""
        if self.adapter_folder is None:
            return {}
        updates = read_updates(on_meta(self.base.files), self.adapter_folder)
        return {name.removeprefix("whisper_"): update for name, update in updates.items()}

    @property
    def speech_tokenizer(self) -> Path | None:
        """The speech tokenizer where it lies in the base, as in the embedded one: the merged folder needs it too."""
        folder = self.base.files.speech_tokenizer
        return folder if folder.is_dir() and folder.parent == self.base.files.root else None

    @property
    def size(self) -> int:
        beside = self.speech_tokenizer.rglob("*") if self.speech_tokenizer else ()
        written = (source for sources in self.files.values() for source in sources.values())
        return sum(path.stat().st_size for path in beside) + sum(source.info.nbytes for source in written)


def merge(config: MergeConfig) -> Path:
    """Write the merged checkpoint, unless the same merge is there already; returns its folder.

    Raises:
        UserError: the adapter does not fit the base, ``out`` holds something else, or the disk is full or too small.
    """
    task = Merge(config)
    out = task.out
    refuse_inside(out, {"model.path": task.base.files.root, "adapter": task.adapter_folder})
    facts, overwrite = task.facts, config.overwrite
    with drafted(out, lambda: is_made(out, MERGE_RECORD, facts, overwrite, "merge", beside=(PROMPT,))) as draft:
        if draft is None:
            print(f"{out}: holds this merge already; nothing to do")
            return out
        require_space(task, out, "out", config.out)
        checked = write(task, draft)
    print(checked)
    print(f"{out}: {task.size / 1e9:.2f} GB for {config.target}")
    left_out = [name for name in task.updates if config.target == "qwen2" and is_branch(name)]
    if left_out:
        print(f"without {len(left_out)} changes of the audio branch, on which no text depends")
    missing = _missing_code(task.base.files.root)
    if config.target == "official" and missing:
        print(f"for the published code copy {', '.join(missing)} of moonshotai/Kimi-Audio-7B-Instruct beside the")
        print("base and merge again with overwrite=true: without them it cannot open the folder")
    return out


def write(task: Merge, draft: Path, should_stop: Callable[[], bool] = lambda: False) -> str:
    """Write the merged checkpoint into an empty folder; returns a line about the comparison of its logits.

    Interrupted: on ``should_stop``, asked after every tensor.
    """
    config, root = task.config, task.base.files.root
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    ours = draft if config.target == "official" else draft / FRONT_END_NAME  # where our own code looks for its files
    whisper = ours / WHISPER_NAME
    whisper.mkdir(parents=True)
    with Progress(*columns, disable=not (config.progress and sys.stdout.isatty())) as bar:
        shown = bar.add_task("merging", total=task.size)

        def advance(count: int) -> None:
            bar.advance(shown, count)
            if should_stop():
                raise Interrupted(0)

        for place, sources in task.files.items():
            if place == Path():
                write_decoder(draft, sources, task.changes, config.shard_gb * 1e9, advance)
            else:
                write_merged(draft / place / WEIGHTS_NAME, sources, task.changes, advance)
    write_whisper_configs(task.whisper, whisper)
    if task.speech_tokenizer is not None:
        shutil.copytree(task.speech_tokenizer, ours / task.speech_tokenizer.name)
    write_text_files(root, ours, config.target)
    write_model_config(root, ours, config.target, task.dtype)
    if config.target == "qwen2":
        write_qwen2_configs(read_config(root), task.base.tokenizer, draft, task.dtype)
    check_files({draft / place: sources for place, sources in task.files.items()})
    checked = check_logits(task.base.files, draft, task.adapter_folder, task.dtype, config.verify)
    write_json(draft / MERGE_RECORD, task.facts | prompt_facts(task.prompt), indent=2)
    return checked


def require_space(task: Merge, out: Path, option: str, value: object) -> None:
    """Raise a ConfigError of an option unless there is room to write to a folder, which need not be there."""
    parent = next(folder for folder in (out, *out.parents) if folder.is_dir())
    free, needed = shutil.disk_usage(parent).free, task.size + _SIDE_BYTES
    if needed > free:
        rule = f"needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free in {parent}"
        raise ConfigError(option, value, rule, "Free space there, or name a folder on a larger disk")


def write_text_files(root: Path, folder: Path, target: str) -> None:
    """Tokenizer files, ``generation_config.json`` and, for the official loader, the base's Python files.

    Where the base has these files and does not name them, as the embedded one with a copy of them, the merged one does.
    """
    tokenizer = TextTokenizer.from_pretrained(root)
    shutil.copyfile(root / RANKS_NAME, folder / RANKS_NAME)
    for name, content in special_token_files(tokenizer.special_tokens).items():
        own = read_json_object(root / name, _REMEDY) if (root / name).is_file() else {}
        if target == "qwen2" or not _code(root):
            own.pop("auto_map", None)
        elif name == CONFIG_NAME and not _missing_code(root):
            own.setdefault("auto_map", TOKENIZER_AUTO_MAP)
        write_json(folder / name, own | {key: value for key, value in content.items() if not own.get(key)}, indent=2)
    if target == "official":
        for path in _code(root):
            shutil.copyfile(path, folder / path.name)
    write_json(folder / "generation_config.json", generation_config(root, tokenizer), indent=2)


def generation_config(root: Path, tokenizer: TextTokenizer) -> dict[str, Any]:
    """The base's own, if any, with the three ids that end an answer."""
    path = root / "generation_config.json"
    own = read_json_object(path, _REMEDY) if path.is_file() else {}
    special = tokenizer.special_tokens
    stops = [special[name] for name in (TEXT_EOS, MESSAGE_END, EOS)]
    return own | {"bos_token_id": special[BOS], "eos_token_id": stops, "pad_token_id": tokenizer.pad_id}


def write_model_config(root: Path, folder: Path, target: str, dtype: torch.dtype) -> None:
    """The base's ``config.json``; in a front end without ``auto_map``."""
    fields = read_json_object(root / "config.json", _REMEDY)
    for name in ("_name_or_path", "dtype"):
        fields.pop(name, None)
    fields |= {"architectures": ["MoonshotKimiaForCausalLM"], "torch_dtype": str(dtype).removeprefix("torch.")}
    fields.setdefault("rope_theta", read_config(root).rope_theta)
    if target == "qwen2" or not _code(root):
        fields.pop("auto_map", None)
    elif not _missing_code(root):
        fields.setdefault("auto_map", AUTO_MAP)
    write_json(folder / "config.json", fields, indent=2)


def write_whisper_configs(whisper: Path, folder: Path) -> None:
    """The encoder's ``config.json`` and ``preprocessor_config.json``, which the official export lacks."""
    bins = read_json_object(whisper / "config.json", _REMEDY)["num_mel_bins"]
    write_json(folder / "preprocessor_config.json", PREPROCESSOR_CONFIG | {"feature_size": bins}, indent=2)
    for name in ("config.json", "preprocessor_config.json"):
        if (whisper / name).is_file():
            shutil.copyfile(whisper / name, folder / name)


def _code(root: Path) -> list[Path]:
    """The published Python files beside the base's weights; they are copied, never run."""
    return sorted(root.glob("*.py"))


def _missing_code(root: Path) -> list[str]:
    return [name for name in CODE if not (root / name).is_file()]
