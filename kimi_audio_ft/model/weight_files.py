"""Reading and writing of a model's folder: ``config.json`` and safetensors; never pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import INDEX_NAME, read_json_object, written_aside
from kimi_audio_ft.model.config import PARAMETERS_7B
from kimi_audio_ft.model.shards import read_header

WEIGHTS_NAME = "model.safetensors"


def read_encoder_config(folder: Path, required: tuple[str, ...]) -> dict[str, Any]:
    """``config.json`` of an encoder; a shape that is not written there would silently become a library default."""
    path = folder / "config.json"
    config = read_json_object(path, "Point the option at the encoder's folder")
    missing = [name for name in required if name not in config]
    if missing:
        raise DataError(path, f"lacks {', '.join(missing)}", "Point the option at the encoder's folder")
    return config


def load_tensors(
    module: nn.Module,
    folder: Path,
    rename: Callable[[str], str | None],
    dtype: torch.dtype,
    device: str | torch.device,
) -> None:
    """Fill a module (it may be on the meta device) with the folder's tensors, cast to ``dtype`` on ``device``.

    ``rename`` maps a name in the file to the module's, or to None when the tensor is not read. Raises DataError when
    the names or shapes that remain are not exactly the module's.
    """
    expected = module.state_dict()
    source = _sources(folder, rename)
    missing = sorted(expected.keys() - source.keys())
    unexpected = sorted(source[name][1] for name in source.keys() - expected.keys())
    if missing or unexpected:
        raise DataError(
            folder,
            f"tensors are not those that config.json asks for: missing {_listed(missing)}; "
            f"unexpected {_listed(unexpected)}",
            "config.json and weights must be of the same model",
        )
    check_headers(folder, {path for path, _ in source.values()})
    state: dict[str, Tensor] = {}
    misfits: list[str] = []
    for path in dict.fromkeys(path for path, _ in source.values()):
        with _opened(path) as file:
            for name in (name for name in source if source[name][0] == path):
                tensor = _read_tensor(file, path, source[name][1])
                if tensor.shape != expected[name].shape:
                    misfits.append(f"{name} {list(tensor.shape)} instead of {list(expected[name].shape)}")
                # Cast one by one, so that a large checkpoint is never in memory twice; on the CPU and in the dtype of
                # the file it stays the mapped file itself.
                state[name] = tensor.to(device=device, dtype=dtype)
    if misfits:
        raise DataError(
            folder, f"tensor shapes contradict config.json: {_listed(misfits)}", "Use the config.json of these weights"
        )
    module.load_state_dict(state, assign=True)


def check_parameter_count(module: nn.Module, what: str, place: Path) -> None:
    """Compare a module of the 7B with the published number of its parameters (a key of PARAMETERS_7B)."""
    found, expected = sum(tensor.numel() for tensor in module.state_dict().values()), PARAMETERS_7B[what]
    if found != expected:
        problem = f"the {what} has {found:,} parameters, the published one {expected:,}"
        raise DataError(place, problem, "Download the checkpoint again, config.json and weights")


def save_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write ``model.safetensors`` as transformers writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_aside(folder / WEIGHTS_NAME) as path:
        save_file(on_cpu, path, metadata={"format": "pt"})


def file_of_tensor(folder: Path) -> dict[str, Path]:
    """Where each tensor lies: as the index says, whatever the shards' names, or in the one file."""
    single, index = folder / WEIGHTS_NAME, folder / INDEX_NAME
    if index.is_file():
        weight_map = read_json_object(index, "Download it again").get("weight_map")
        if not isinstance(weight_map, dict):
            raise DataError(index, "has no 'weight_map'", "Download it again")
        return {name: folder / shard for name, shard in weight_map.items()}
    if single.is_file():
        with _opened(single) as file:
            return dict.fromkeys(file.keys(), single)
    raise DataError(
        folder,
        f"holds neither {WEIGHTS_NAME} nor {INDEX_NAME}",
        "Point the option at the folder of the safetensors (pickled .bin and .pt files are not read)",
    )


def _sources(folder: Path, rename: Callable[[str], str | None]) -> dict[str, tuple[Path, str]]:
    """File and stored name of every tensor that is read, by the module's name."""
    source: dict[str, tuple[Path, str]] = {}
    for stored_name, path in file_of_tensor(folder).items():
        name = rename(stored_name)
        if name in source:
            raise DataError(path, f"holds {name} twice, as {source[name][1]} and {stored_name}", "Remove one of them")
        if name is not None:
            source[name] = (path, stored_name)
    return source


def check_headers(folder: Path, needed: set[Path]) -> None:
    """Compare the index with what the shards declare; shards that are not needed may be absent."""
    if not (folder / INDEX_NAME).is_file():
        return
    index = read_json_object(folder / INDEX_NAME, "Download it again")
    named: dict[Path, set[str]] = {}
    for name, path in file_of_tensor(folder).items():
        named.setdefault(path, set()).add(name)
    total, complete = 0, True
    for path, names in named.items():
        if path not in needed and not path.is_file():
            complete = False
            continue
        try:
            total += _declared_bytes(path, names)
        except DataError:
            if path in needed:
                raise
            complete = False
    metadata = index.get("metadata")
    expected = metadata.get("total_size") if isinstance(metadata, dict) else None
    if complete and expected is not None and expected != total:
        problem = f"says total_size {expected:,} bytes, but its shards declare {total:,}"
        raise DataError(folder / INDEX_NAME, problem, "Index and shards must be of one download: download both again")


def _declared_bytes(path: Path, names: set[str]) -> int:
    """Bytes of a shard's tensors, which must be those that the index names."""
    if not path.is_file():
        raise DataError(path, f"is not there, but {INDEX_NAME} names it", "Download it again")
    header = read_header(path)
    if absent := sorted(names - header.keys()):
        raise DataError(path, f"does not hold {_listed(absent)}, as {INDEX_NAME} says", "Download it again")
    if unnamed := sorted(header.keys() - names):
        raise DataError(path, f"holds {_listed(unnamed)}, unknown to {INDEX_NAME}", "Download both again")
    return sum(info.nbytes for info in header.values())


def _read_tensor(file: Any, path: Path, name: str) -> Tensor:
    try:
        return file.get_tensor(name)
    except SafetensorError as error:
        raise DataError(path, f"does not hold {name} ({error})", "Download it again") from None


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise DataError(path, f"is not a readable safetensors file ({error})", "Download it again") from None


def _listed(names: list[str], most: int = 12) -> str:
    if not names:
        return "none"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
