"""An adapter for engines beside our own: PEFT's format, with decoder linears only, by the last part of their names.

vLLM takes such a folder as a LoRA request beside a base that ``merge target=qwen2`` wrote. It knows no expression over
module paths, which our own adapters have for targets, and applies what it does not know to nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from kimi_audio_ft.base import base_facts, find_adapter
from kimi_audio_ft.config.commands import ExportAdapterConfig
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import write_json
from kimi_audio_ft.lora.adapter import CONFIG, FACTORS, PEFT_PREFIX, WEIGHTS, not_plain, read_adapter
from kimi_audio_ft.lora.targets import needs_branch
from kimi_audio_ft.manifest.prompts import copied_facts
from kimi_audio_ft.merging.folder import drafted, is_made, refuse_inside
from kimi_audio_ft.paths import expanded
from kimi_audio_ft.store.make import META

RECORD = "export.json"
# Raise it when the code changes what an export writes.
_VERSION = 1
_LAYERS = f"{PEFT_PREFIX}model.layers."
_REMEDY = "Merge it: python -m kimi_audio_ft.merge target=qwen2"


def export_adapter(config: ExportAdapterConfig) -> Path:
    """Write the copy, unless it is there already; returns its folder.

    Raises:
        UserError: the adapter changes more than an engine lets it, or ``out`` holds something else.
    """
    found = find_adapter(config.adapter)
    assert found is not None, "ExportAdapterConfig requires a name"
    adapter, folder = found
    out, facts = expanded(config.out).resolve(), {"version": _VERSION, "adapter": adapter}
    refuse_inside(out, {"adapter": folder})
    with drafted(out, lambda: is_made(out, RECORD, facts, config.overwrite, "exported adapter")) as draft:
        if draft is None:
            print(f"{out}: holds this adapter already; nothing to do")
            return out
        rank, left_out = write_leaf_adapter(folder, draft)
        if about := base_facts(folder) | copied_facts(folder / META):
            write_json(draft / META, about)
        write_json(draft / RECORD, facts, indent=2)
    print(f"{out}: rank {rank}, which an engine's max_lora_rank must allow")
    if left_out:
        print(f"without {left_out} linears of the audio branch, on which no text depends")
    return out


def write_leaf_adapter(folder: Path, out: Path, remedy: str = _REMEDY) -> tuple[int, int]:
    """Write config and tensors of the copy of an adapter into an empty folder.

    Args:
        remedy: said of an adapter that engines cannot apply.

    Returns:
        Its rank, and the number of linears of the audio branch that it leaves out.

    Raises:
        DataError: it changes what an engine does not let an adapter change, or is no plain LoRA.
    """
    fields, tensors, left_out = _leaf_adapter(folder, remedy)
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    write_json(out / CONFIG, fields, indent=2)
    return fields["r"], left_out


def _leaf_adapter(folder: Path, remedy: str) -> tuple[dict[str, Any], dict[str, Tensor], int]:
    config, tensors = read_adapter(folder)
    if odd := not_plain(config):
        raise DataError(folder, f"has {', '.join(odd)}, which engines do not apply", remedy)
    factors = [key for key in tensors if key.endswith(FACTORS)]
    kept = {key: tensors[key] for key in factors if key.startswith(_LAYERS)}
    branch = [key for key in factors if needs_branch([key.removeprefix(PEFT_PREFIX)])]
    others = sorted(tensors.keys() - kept.keys() - set(branch))
    if others:
        problem = f"changes {others[0].removeprefix(PEFT_PREFIX)} ({len(others)} such tensors), which no engine applies"
        raise DataError(folder, problem, remedy)
    if not kept:
        raise DataError(folder, "changes nothing that text depends on", "Export another adapter")
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "use_rslora": config.use_rslora,
        "target_modules": sorted({key.split(".")[-3] for key in kept}),
        "bias": "none",
        "modules_to_save": None,
        "inference_mode": True,
    }
    return fields, kept, len(branch) // len(FACTORS)
