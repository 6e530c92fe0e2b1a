"""Content addresses: what determines a product, hashed.

A signature covers the canonical form of the *full resolved* config of a stage (``config/canonical.py``), plus the
identity of the stage's inputs. Editing a default therefore never reuses a stale product; adding a field makes new
signatures, which cheap LoRA trainings can afford.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))

# Raise a stage's number when its code changes what it computes.
# adapter 3: dropout draws its masks by seed, step and layer, so that they are the same in a pack.
# adapter 4, transcript 2: configs are hashed, and perturbations and tokens drawn, in their canonical forms.
# adapter 5, transcript 4: results in float32 have other last bits (behind the last layer only answers are computed).
# adapter 6: the same, of gradients (a common prompt is computed once a batch, and no padding).
# transcript 3: the limit of an answer comes from its audio, and answers that it has cut are marked.
STAGE_VERSION = {"features": 2, "adapter": 6, "transcript": 4}


def signature(stage: str, form: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """A letter and 15 hex digits that name a product of a stage.

    Args:
        stage: "adapter" or "transcript".
        form: canonical form of the stage's config.
        inputs: identities of what the stage reads (JSON values).
    """
    facts = {
        "stage": stage,
        "version": STAGE_VERSION[stage],
        "config": form,
        "inputs": inputs,
    }
    # The first letter keeps Hydra from reading a signature such as 1234e56 on its command line as a number.
    return stage[0] + digest_of(facts)[1:]


def digest_of(facts: Any) -> str:
    """16 hex digits of a JSON value, independent of key order."""
    return hashlib.sha256(canonical(facts).encode()).hexdigest()[:16]


def canonical(facts: Any) -> str:
    """A JSON value as text that is the same for every order of keys."""
    return _CANONICAL.encode(facts)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"lora": {"r": 8}}`` as ``{"lora.r": 8}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def feature_facts(encoders: dict[str, Any], dim: int, dtype: str) -> dict[str, Any]:
    """All that the values in a feature store depend on. dtype: as PyTorch prints it, such as torch.bfloat16."""
    return {"encoders": encoders, "dim": dim, "dtype": dtype, "version": STAGE_VERSION["features"]}


def feature_signature(encoders: dict[str, Any], dim: int, dtype: str) -> str:
    return "f" + digest_of(feature_facts(encoders, dim, dtype))[1:]
