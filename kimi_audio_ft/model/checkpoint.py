"""Published checkpoint layout: reading and writing ``config.json``, safetensors shards and their index."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import INDEX_NAME, read_json_object, write_json
from kimi_audio_ft.model.config import PARAMETERS_7B, KimiAudioConfig

# Names of dtypes in a file's header.
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
WEIGHTS_NAME = "model.safetensors"
# The published shards hold a bf16 table of rotary frequencies per layer; rounded ones must not be used.
STRAY_SUFFIX = "rotary_emb.inv_freq"
BRANCH_PREFIXES = ("model.mimo_layers.", "model.mimo_norm.", "mimo_output.")


@dataclass(frozen=True)
class TensorInfo:
    """Dtype and shape of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor in its file, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_shards(
    folder: Path, sizes: Mapping[str, int], most_bytes: float, write: Callable[[Path, list[str]], None]
) -> None:
    """Write tensors, in order, into ``model-1-of-N.safetensors``, ..., and then the index of these files.

    Args:
        sizes: bytes of every tensor. most_bytes: limit of a file; a larger tensor has its own.
        write: called with the path of each file and the names of its tensors.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, nbytes in sizes.items():
        if shards[-1] and size + nbytes > most_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number}-of-{len(shards)}.safetensors"
        write(folder / file, names)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    write_json(folder / INDEX_NAME, index, indent=2)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors declared by a file. Raises DataError if it is truncated, damaged or not safetensors."""
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict; the tensors are memory-mapped
    return {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def write_in_pieces(
    path: Path, tensors: Mapping[str, TensorInfo], pieces_of: Callable[[str], Iterable[Tensor]]
) -> None:
    """Write a safetensors file without holding a whole tensor in memory.

    ``pieces_of`` gives a tensor by its name, as consecutive pieces of its first dimension.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, info in tensors.items():
        start, end = end, end + info.nbytes
        header[name] = {"dtype": _DTYPE_NAMES[info.dtype], "shape": list(info.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes, for memory mapping
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, info in tensors.items():
            written = 0
            for piece in pieces_of(name):
                assert piece.dtype == info.dtype, (name, piece.dtype)
                written += file.write(piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            assert written == info.nbytes, (name, written, info.nbytes)


def is_branch(name: str) -> bool:
    """Whether a tensor belongs to the audio branch, which text output does not use."""
    return name.startswith(BRANCH_PREFIXES)


def read_config(folder: Path) -> KimiAudioConfig:
    path, remedy = folder / "config.json", "Set model.path to a Kimi-Audio checkpoint"
    fields = read_json_object(path, remedy)
    try:
        return KimiAudioConfig(**fields)
    except (TypeError, ValueError, ArithmeticError, StrictDataclassError) as error:
        problem = " ".join(str(error).split())
        raise DataError(path, f"describes no Kimi-Audio model ({problem})", remedy) from None


def read_encoder_config(folder: Path, required: tuple[str, ...]) -> dict[str, Any]:
    """``config.json`` of an encoder; a missing shape field would silently become a library default."""
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
    """Load the folder's tensors into a module (possibly on the meta device), cast to ``dtype`` on ``device``.

    ``rename`` maps a name in the file to the module's, or to None to skip the tensor. Raises DataError if the remaining
    names or shapes are not exactly the module's.
    """
    expected = module.state_dict()
    source = _sources(folder, rename)
    missing = sorted(expected.keys() - source.keys())
    unexpected = sorted(source[name][1] for name in source.keys() - expected.keys())
    if missing or unexpected:
        odd = f"missing {_listed(missing)}; unexpected {_listed(unexpected)}"
        problem = f"tensors are not those that config.json asks for: {odd}"
        raise DataError(folder, problem, "config.json and weights must be of the same model")
    check_headers(folder, {path for path, _ in source.values()})
    state: dict[str, Tensor] = {}
    misfits: list[str] = []
    for path in dict.fromkeys(path for path, _ in source.values()):
        with _opened(path) as file:
            for name in (name for name in source if source[name][0] == path):
                tensor = file.get_tensor(source[name][1])
                if tensor.shape != expected[name].shape:
                    misfits.append(f"{name} {list(tensor.shape)} instead of {list(expected[name].shape)}")
                # Cast one by one, so that a large checkpoint is never in memory twice; on the CPU in the file's dtype
                # it stays memory-mapped.
                state[name] = tensor.to(device=device, dtype=dtype)
    if misfits:
        problem = f"tensor shapes contradict config.json: {_listed(misfits)}"
        raise DataError(folder, problem, "Use the config.json of these weights")
    module.load_state_dict(state, assign=True)


def check_parameter_count(module: nn.Module, what: str, folder: Path) -> None:
    """Check the parameter count of a module of the 7B against the published one (a key of PARAMETERS_7B)."""
    found, expected = sum(tensor.numel() for tensor in module.state_dict().values()), PARAMETERS_7B[what]
    if found != expected:
        problem = f"the {what} has {found:,} parameters, the published one {expected:,}"
        raise DataError(folder, problem, "Download the checkpoint again, config.json and weights")


def file_of_tensor(folder: Path) -> dict[str, Path]:
    """File of each tensor, by the index or from the single file."""
    single, index = folder / WEIGHTS_NAME, folder / INDEX_NAME
    if index.is_file():
        weight_map = read_json_object(index, "Download it again").get("weight_map")
        if not isinstance(weight_map, dict):
            raise DataError(index, "has no 'weight_map'", "Download it again")
        return {name: folder / shard for name, shard in weight_map.items()}
    if single.is_file():
        with _opened(single) as file:
            return dict.fromkeys(file.keys(), single)
    remedy = "Point the option at the folder of the safetensors (pickled .bin and .pt files are not read)"
    raise DataError(folder, f"holds neither {WEIGHTS_NAME} nor {INDEX_NAME}", remedy)


def _sources(folder: Path, rename: Callable[[str], str | None]) -> dict[str, tuple[Path, str]]:
    """File and stored name of every tensor to read, by the module's name."""
    source: dict[str, tuple[Path, str]] = {}
    for stored_name, path in file_of_tensor(folder).items():
        name = rename(stored_name)
        if name in source:
            raise DataError(path, f"holds {name} twice, as {source[name][1]} and {stored_name}", "Remove one of them")
        if name is not None:
            source[name] = (path, stored_name)
    return source


def check_headers(folder: Path, needed: set[Path]) -> None:
    """Check the index against the shards' headers; shards that are not needed may be missing."""
    if not (folder / INDEX_NAME).is_file():
        return
    index = read_json_object(folder / INDEX_NAME, "Download it again")
    named: dict[Path, set[str]] = {}
    for name, path in file_of_tensor(folder).items():
        named.setdefault(path, set()).add(name)
    total, complete = 0, True
    for path, names in named.items():
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
    """Bytes of a shard's tensors, which must match the index."""
    if not path.is_file():
        raise DataError(path, f"is not there, but {INDEX_NAME} names it", "Download it again")
    header = read_header(path)
    if absent := sorted(names - header.keys()):
        raise DataError(path, f"does not hold {_listed(absent)}, as {INDEX_NAME} says", "Download it again")
    if unnamed := sorted(header.keys() - names):
        raise DataError(path, f"holds {_listed(unnamed)}, unknown to {INDEX_NAME}", "Download both again")
    return sum(info.nbytes for info in header.values())


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        problem = f"is not a readable safetensors file ({_cut(path) or error})"
        raise DataError(path, problem, "Download it again") from None


def _cut(path: Path) -> str:
    """By how much a file is cut off; empty if that is not what is wrong with it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(min(length, size))).values()
        declared = 8 + length + max(entry["data_offsets"][1] for entry in entries if "data_offsets" in entry)
    except (OSError, ValueError, TypeError, AttributeError):
        return ""
    return f"its header declares {declared:,} bytes, it has {size:,}" if declared != size else ""


def _listed(names: list[str], most: int = 12) -> str:
    if not names:
        return "none"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
