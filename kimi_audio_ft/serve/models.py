"""What requests ask for by name: adapters and the base alone, decoded here or by a running vLLM server."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_audio_ft.base import Base, base_facts, find_adapter, require_base
from kimi_audio_ft.config.checks import require
from kimi_audio_ft.config.command_line import assigned
from kimi_audio_ft.config.serve import BASE, ServeConfig
from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.files import read_json_object
from kimi_audio_ft.manifest.prompts import PROMPT
from kimi_audio_ft.model.files import FRONT_END_NAME, MERGE_RECORD
from kimi_audio_ft.serve.vllm_server import OPTION, VllmServer
from kimi_audio_ft.text import printable
from kimi_audio_ft.transcribe.prompts import prompt_of

_MERGE = "python -m kimi_audio_ft.merge target=qwen2 out=FOLDER"


@dataclass(frozen=True)
class Model:
    """What requests ask for by name.

    adapter: its folder, or its name at a vLLM server; None: the base alone. prompt: that it was trained with. decoding,
    seed: how it is asked. words: hot words of requests that give none.
    """

    name: str
    adapter: str | None
    prompt: str
    decoding: DecodingConfig
    seed: int
    words: Sequence[str] = ()


Named = Mapping[str, tuple[str | None, ServeConfig]]
"""Adapters as options name them (None: the base alone), and the options of each, by name."""


def own_models(base: Base, named: Named) -> dict[str, Model]:
    """Models that are decoded here; UserError: an adapter is none, or does not fit the base."""
    return {name: _own_model(base, name, adapter, options) for name, (adapter, options) in named.items()}


def _own_model(base: Base, name: str, adapter: str | None, options: ServeConfig) -> Model:
    folder = _folder_of(adapter)
    if folder is not None:
        require_base(base, folder, options.any_base)
        base.saved_targets(folder)  # now, and not at its first request
    prompt = prompt_of(options.data.prompt, folder, base.files.root)
    return Model(name, None if folder is None else str(folder), prompt, options.decoding, options.seed)


def models_of_server(base: Base, server: VllmServer, named: Named, others: ServeConfig) -> dict[str, Model]:
    """Models that a vLLM server has, with the prompts of the adapters that are named here.

    Args:
        others: options of the adapters that it has and that are not named.

    Raises:
        UserError: the server cannot be used or lacks an adapter, or ``model.path`` is no front end.
    """
    qwen2, there = qwen2_of(base), server.models().adapters
    merged = read_json_object(qwen2 / MERGE_RECORD, f"Write it again: {_MERGE}")
    remedy = "Start the vLLM server with another name for it"
    require(BASE not in there, OPTION, server.url, f"has an adapter named {BASE}, the base alone here", remedy)
    found = {}
    for name, (adapter, options) in named.items():
        folder = _folder_of(adapter)
        if folder is not None:
            rule = f"the vLLM server has no {name}; it has {', '.join(map(printable, there)) or 'no adapters'}"
            export = f"python -m kimi_audio_ft.export_adapter {shlex.quote(assigned('adapter', adapter))} out=FOLDER"
            remedy = f"Start it with --enable-lora --lora-modules {name}=FOLDER ({export})"
            require(name in there, "adapters", name, rule, remedy)
            _require_same_base(base, merged, folder, options.any_base)
        prompt = prompt_of(options.data.prompt, folder, qwen2 if merged.get("adapter") or merged.get(PROMPT) else None)
        found[name] = Model(name, name if folder else None, prompt, options.decoding, options.seed)
    for name in there:
        if name not in found:
            if others.data.prompt is None:
                shown = printable(name)
                own = shlex.quote(f"adapters={{{shown}: FOLDER}}")
                told = (
                    f"adapter of the vLLM server, asked with the default prompt; {own} uses the one it was trained with"
                )
                print(f"{shown}: {told}", flush=True)
            found[name] = Model(name, name, prompt_of(others.data.prompt, None), others.decoding, others.seed)
    return found


def qwen2_of(base: Base) -> Path:
    """The Qwen2 folder whose front end is the base; ConfigError if it is none."""
    root, given = base.files.root, base.settings.path
    rule = "is no front end of a Qwen2, which decoding.engine=vllm needs here"
    inside = root / FRONT_END_NAME
    require(not inside.is_dir(), "model.path", given, rule, f"Use model.path={given}/{FRONT_END_NAME}")
    there = root.name == FRONT_END_NAME and (root.parent / MERGE_RECORD).is_file()
    require(there, "model.path", given, rule, f"Write one ({_MERGE}) and use model.path=FOLDER/{FRONT_END_NAME}")
    return root.parent


def _require_same_base(base: Base, merged: Mapping[str, Any], folder: Path, any_base: bool) -> None:
    """Raise a ConfigError if an adapter is known to be of another base than the Qwen2, unless ``any_base``.

    Args:
        merged: record of the Qwen2.
    """
    facts = base_facts(folder)
    if any_base or not facts or (facts["base"] == merged.get("base") and merged.get("adapter") is None):
        return
    trained_on, has = facts["config"]["model"]["path"], merged.get("adapter")
    rule = f"the adapter in {folder} was trained on another base ({trained_on}{', without ' + str(has) if has else ''})"
    remedy = f"Write that one ({_MERGE} adapter=null), or set any_base=true to insist"
    raise ConfigError("model.path", base.settings.path, rule, remedy)


def _folder_of(adapter: str | None) -> Path | None:
    found = find_adapter(adapter)
    return found[1] if found else None
