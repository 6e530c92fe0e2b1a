"""Manifests as options name them: one path, a list of paths or, for evaluation, paths by name; and their weights."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.checks import require

TRAIN, EVAL, WEIGHTS = "data.train_manifest", "data.eval_manifest", "data.train_weights"
TEST, GUARD = "data.test_manifest", "data.guard_manifests"
# A set's name becomes a part of columns, of ids and of W&B's keys.
_NAME = re.compile(r"\w[\w-]*")
_OTHER = re.compile(r"[^\w-]+")


def manifest_paths(value: Any) -> list[str]:
    """Paths of an option's value, of whatever form."""
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else [value]


def parts_of_training(value: Any, weights: Sequence[float] | None) -> dict[str, float]:
    """Weights of the training manifests by path; without those of weight 0.

    Raises:
        ConfigError: it is neither a path nor a list of paths, or the weights do not fit to it.
    """
    remedy = f"Write {TRAIN}=FILE.tokens.jsonl or '{TRAIN}=[A.tokens.jsonl,B.tokens.jsonl]'"
    require(not isinstance(value, dict), TRAIN, value, "must be a path, or a list of paths", remedy)
    paths = manifest_paths(value)
    _require_paths(TRAIN, value, paths, "must be a path, or a list of paths", remedy)
    remedy = f"Name it once, and take it oftener by {WEIGHTS}"
    require(len(set(paths)) == len(paths), TRAIN, value, "names a manifest twice", remedy)
    if weights is None:
        return dict.fromkeys(paths, 1.0)
    rule = f"needs one weight for each manifest of {TRAIN}, which names {len(paths)}"
    require(len(weights) == len(paths), WEIGHTS, weights, rule)
    rule = "a weight is 0 or more: how often each conversation is taken in an epoch"
    require(all(math.isfinite(weight) and weight >= 0 for weight in weights), WEIGHTS, weights, rule)
    require(any(weights), WEIGHTS, weights, "leaves nothing to train on", "Give one of them a weight above 0")
    return {path: float(weight) for path, weight in zip(paths, weights, strict=True) if weight}


def evaluation_sets(value: Any) -> dict[str, str]:
    """Paths of the evaluation sets by name, in the order of the names; a single one has the empty name.

    Raises:
        ConfigError: it is no path, list of paths, or paths by name; or a name cannot be used.
    """
    remedy = f"Write {EVAL}=FILE.tokens.jsonl or '{EVAL}={{NAME: A.tokens.jsonl, OTHER: B.tokens.jsonl}}'"
    paths = manifest_paths(value)
    _require_paths(EVAL, value, paths, "must be a path, a list of paths, or paths by name", remedy)
    named = _named(EVAL, value) if isinstance(value, dict) else _names(value, paths)
    require(len(set(paths)) == len(paths), EVAL, value, "names a manifest twice", "Evaluate each once")
    return dict(sorted(named.items())) if len(named) > 1 else {"": paths[0]}


def guard_sets(value: Any) -> dict[str, str]:
    """Paths of the guard sets by name, in the order of the names; empty without any.

    Raises:
        ConfigError: they are no paths by name, or a name cannot be used.
    """
    remedy = f"Write '{GUARD}={{NAME: FILE.tokens.jsonl}}', or null for none"
    if value is None:
        return {}
    right = isinstance(value, dict) and all(isinstance(path, str) and path for path in value.values())
    require(right, GUARD, value, "must be paths by name", remedy)
    named = _named(GUARD, value)
    require(len({*named.values()}) == len(named), GUARD, value, "names a manifest twice", "Guard each once")
    return dict(sorted(named.items()))


def _named(option: str, value: dict[Any, str]) -> dict[str, str]:
    """Paths by names that can be used."""
    named = {str(name): path for name, path in value.items()}
    for name in named:
        rule = f"the name {name!r} must be of letters, digits, - and _"
        require(_NAME.fullmatch(name) is not None, option, value, rule)
    return named


def _require_paths(option: str, value: Any, paths: Sequence[Any], rule: str, remedy: str) -> None:
    require(bool(paths), option, value, "needs at least one manifest", remedy)
    right = all(isinstance(path, str) for path in paths) and (isinstance(value, str) or all(paths))
    require(right, option, value, rule, remedy)


def _names(value: Any, paths: Sequence[str]) -> dict[str, str]:
    """Paths by what their files are called; by folder and file where files are called alike."""
    stems = [_safe(Path(path).name.removesuffix(".jsonl").removesuffix(".tokens")) for path in paths]
    if len(set(stems)) < len(stems):
        stems = [f"{_safe(Path(path).absolute().parent.name)}_{stem}" for path, stem in zip(paths, stems, strict=True)]
    rule = "files of one name give two sets the same name"
    remedy = f"Name them: '{EVAL}={{NAME: {paths[0]}, OTHER: {paths[-1]}}}'"
    require(len(set(stems)) == len(stems) or len(set(paths)) < len(paths), EVAL, value, rule, remedy)
    return dict(zip(stems, paths, strict=True))


def _safe(stem: str) -> str:
    return _OTHER.sub("_", stem).lstrip("-") or "set"
