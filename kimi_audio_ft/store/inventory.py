"""The products in the store: what made each, which sweeps used it, and whether its files are whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.manifests import manifest_paths
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.store.make import GROWS, HASHES, KINDS, META, damage, read_meta
from kimi_audio_ft.store.signature import flatten
from kimi_audio_ft.store.usage import Record, records

# What tells adapters of a study from each other, in the order it is shown.
_ADAPTER_FIELDS = ("lora.r", "lora.lora_alpha", "lora.lora_dropout", "optim.lr", "seed")
_DECODING_FIELDS = ("text_temperature", "text_top_k", "text_repetition_penalty", "max_new_tokens", "engine")
_ITEM_BYTES = {"torch.float32": 4, "torch.bfloat16": 2, "torch.float16": 2}
_CODE_BYTES = 4


@dataclass(frozen=True)
class Product:
    """A finished product.

    last_used: by a sweep; when it was created if none has. studies: folders of such sweeps. adapter: of a transcript,
    which is used with it ("base" for the base alone); empty for other kinds.
    """

    kind: str
    signature: str
    path: str
    created: str
    bytes: int
    made_by: str
    last_used: str
    studies: list[str]
    adapter: str = ""

    @property
    def name(self) -> tuple[str, str]:
        return self.kind, self.signature


def products(kinds: tuple[str, ...] = KINDS) -> list[Product]:
    """Every finished product, by kind and signature. One whose ``product.json`` is malformed has no facts."""
    uses = records()
    found = []
    for kind in kinds:
        for folder in sorted((store_root() / kind).glob("[!.]*")):
            try:
                status = (folder / META).stat()
                size = bytes_in(folder)
            except OSError:  # no product; or it is removed in this moment
                continue
            made = datetime.fromtimestamp(status.st_mtime).astimezone().strftime("%Y-%m-%dT%H:%M:%S%z")
            try:
                found.append(_product(kind, folder, size, made, _facts(folder), uses))
            except (ValueError, TypeError, AttributeError) as error:
                found.append(_product(kind, folder, size, made, {}, uses, f"{META} is malformed: {error}"))
    return found


def _product(
    kind: str,
    folder: Path,
    size: int,
    made: str,
    facts: Mapping[str, Any],
    uses: Sequence[Record],
    otherwise: str = f"{META} cannot be read",
) -> Product:
    created = str(facts.get("created", made))
    adapter = str(facts.get("inputs", {}).get("adapter", "")) if kind == "transcript" else ""
    name = ("adapter", adapter) if adapter else (kind, folder.name)
    mine = [use for use in uses if name in use.products]
    last = max([created, *(use.products[name] for use in mine)], key=seconds)
    studies = [str(use.sweep) for use in mine]
    made_by = _made_by(kind, facts) if facts else otherwise
    return Product(kind, folder.name, str(folder), created, size, made_by, last, studies, adapter)


def listing() -> list[dict[str, Any]]:
    """Every finished product as ``ls --json`` prints it."""
    return [{name: value for name, value in asdict(found).items() if name != "adapter"} for found in products()]


def bytes_in(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def seconds(when: str) -> float:
    """A product's or a record's time as seconds since 1970."""
    return datetime.fromisoformat(when).timestamp()


def problem(product: Product) -> str | None:
    """Problem of a product, in words, all of it read; None when it is whole, or when its version kept no hashes.

    Features have no hashes, because they grow: their index must agree with itself and with the sizes of the shards.
    """
    folder = Path(product.path)
    found = damage(folder, remembered=False)
    if found is None and product.kind == "features":
        try:
            found = _features_problem(folder, _facts(folder))
        except (KeyError, TypeError):
            return f"{META} is malformed"
    return found


def has_hashes(product: Product) -> bool:
    return HASHES in _facts(Path(product.path))


def grows(product: Product) -> bool:
    """Whether a product of another kind than features is one that grows, and therefore has no hashes."""
    return bool(_facts(Path(product.path)).get(GROWS))


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts = read_meta(folder)
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _made_by(kind: str, facts: Mapping[str, Any]) -> str:
    if kind == "adapter":
        flat = flatten(facts.get("config", {}))
        shown = {key: flat[key] for key in _ADAPTER_FIELDS if key in flat}
        shown |= {"steps": facts["steps"]} if "steps" in facts else {}
        if "data.train_manifest" in flat:
            shown["data"] = "+".join(Path(path).name for path in manifest_paths(flat["data.train_manifest"]))
    elif kind == "transcript":
        inputs, decoding = facts.get("inputs", {}), facts.get("decoding", {})
        shown = {key: inputs[key] for key in ("adapter", "seed", "repeat") if key in inputs}
        shown |= {key: decoding[key] for key in _DECODING_FIELDS if key in decoding}
    else:
        shown = {key: str(facts[key]).removeprefix("torch.") for key in ("model", "dim", "dtype") if key in facts}
    return " ".join(f"{key}={value}" for key, value in shown.items())


def _features_problem(folder: Path, facts: Mapping[str, Any]) -> str | None:
    import numpy as np

    from kimi_audio_ft.store.features import FeatureIndex

    index = FeatureIndex(folder / "index.bin")
    shards = index.records["shard"]
    for shard in np.unique(shards).tolist():
        own = index.records[shards == shard]
        ends = (own["row"] + own["count"]).astype(np.int64)
        gaps = np.flatnonzero(own["row"].astype(np.int64) != np.concatenate([[0], ends[:-1]]))
        if len(gaps):
            return f"index.bin: record {gaps[0]} of shard {shard} does not begin where the one before it ends"
        widths = {"codes": _CODE_BYTES, "features": facts["dim"] * _ITEM_BYTES[facts["dtype"]]}
        for name, width in widths.items():
            file, wanted = folder / str(shard) / f"{name}.bin", int(ends[-1]) * width
            size = file.stat().st_size if file.is_file() else 0
            if size < wanted:
                return f"{shard}/{name}.bin has {size} bytes, and index.bin needs {wanted}"
    return None
