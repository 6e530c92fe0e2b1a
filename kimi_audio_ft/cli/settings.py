"""A composed config as its dataclass, checked: misspelt options, missing values, and the rules of each value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from functools import cache, reduce
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf

from kimi_audio_ft.config.instance import instance
from kimi_audio_ft.config.launcher import FinalistsConfig, HalvingConfig, LauncherConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.store.signature import flatten

# Options that may hold a mapping with any keys: another program's own config, and names that users give.
OPEN = ("trainer.deepspeed", "decoding.vllm.options", "data.eval_manifest", "data.guard_manifests", "adapters")
_OPEN_KEYS = tuple(f"{option}." for option in OPEN)
# What others call an option.
_SYNONYMS = {
    **dict.fromkeys(("learning_rate", "lr_rate", "peak_lr"), "lr"),
    **dict.fromkeys(("rank", "lora_rank"), "r"),
    **dict.fromkeys(("alpha", "scaling"), "lora_alpha"),
    **dict.fromkeys(("dropout",), "lora_dropout"),
    **dict.fromkeys(("epochs", "num_epochs", "num_train_epochs", "n_epochs"), "max_epochs"),
    **dict.fromkeys(("steps", "num_steps"), "max_steps"),
    **dict.fromkeys(("temperature", "temp"), "text_temperature"),
    **dict.fromkeys(("top_k",), "text_top_k"),
    **dict.fromkeys(("bs", "per_device_train_batch_size"), "batch_size"),
    **dict.fromkeys(("gradient_accumulation_steps", "grad_accum", "accumulate_grad_batches"), "accumulate"),
    **dict.fromkeys(("num_gpus", "gpus", "n_gpu"), "devices"),
    **dict.fromkeys(("clip_grad", "gradient_clip_val", "grad_clip"), "max_grad_norm"),
    **dict.fromkeys(("warmup",), "warmup_ratio"),
    **dict.fromkeys(("scheduler", "lr_scheduler"), "schedule"),
}
# First parts of names that are meant for something else.
_OTHER_WORDS = {
    **dict.fromkeys(
        ("experiment", "experiments", "study"), "A study is chosen by +experiments=NAME; --help lists them"
    ),
    "sweep": "Trials that are no product of values: hydra/sweeper=listed hydra.sweeper.trials=FILE (docs/hydra.md)",
}
# Options of choices that are not the default.
OF_CHOICES = {
    f"hydra.sweeper.{name}": "It comes with hydra/sweeper=finalists and hydra/sweeper=halving"
    for name in ("finalists", "finalist_seeds")
}


def to_settings(config: DictConfig) -> Any:
    """The composed config as its dataclass; this is where the checks of ``__post_init__`` run."""
    schema, values = OmegaConf.get_type(config), OmegaConf.to_container(config)
    assert isinstance(values, dict)
    if is_dataclass(schema):
        refuse_unusable(schema, {str(key): value for key, value in values.items()})
    return OmegaConf.to_object(config)


def settings_of(schema: type, values: dict[str, Any]) -> Any:
    """The same of a config as nested values none of which refers to another: much faster."""
    refuse_unusable(schema, values)
    return instance(schema, values)


def config_values(config: Any) -> dict[str, Any]:
    """A composed config, or the dataclass made of it, as a nested dict; values of a config are as written."""
    values = OmegaConf.to_container(config) if OmegaConf.is_config(config) else asdict(config)
    return cast(dict[str, Any], values)


def value_at(values: Any, name: str) -> Any:
    """The value of a dotted name in nested dicts."""
    return reduce(lambda found, key: found[key], name.split("."), values)


def refuse_unusable(schema: type, values: dict[str, Any]) -> None:
    """Raise a UserError for an option that the dataclass lacks, and for one that must be given and has no value
    (``to_object`` would quietly put the dataclass's default there)."""
    refuse_unknown(schema, values)
    missing = sorted(name for name, value in _options(values).items() if value == MISSING)
    if missing:
        raise UserError(f"{missing[0]}: has no value; it must be given. Write {missing[0]}=... on the command line")


def refuse_unknown(schema: type, values: dict[str, Any]) -> None:
    """Raise a UserError for an option that the dataclass lacks: Hydra lets ``+lora.rank=4`` through."""
    known = option_names(schema)
    unknown = sorted(name for name in _options(values).keys() - set(known) if not name.startswith(_OPEN_KEYS))
    if unknown:
        raise UserError(unknown_option(unknown[0], known))


@cache
def option_names(schema: type) -> tuple[str, ...]:
    """Dotted names of all options of a settings dataclass."""
    return tuple(_options(cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(schema)))))


def _options(values: dict[str, Any]) -> dict[str, Any]:
    """Options by dotted name, their values as written."""
    options = flatten(values)
    for option in OPEN:
        inner: Any = values
        for name in option.split("."):
            inner = inner.get(name) if isinstance(inner, dict) else None
        if inner == {}:
            options[option] = {}
    return options


def unknown_option(name: str, known: Iterable[str]) -> str:
    """A message about a name that is none of the options, with the nearest ones."""
    if name.startswith(_OPEN_KEYS):
        return f"{name}: is not set yet. Write +{name}=VALUE to add a key"
    hint = OF_CHOICES.get(name) or _OTHER_WORDS.get(name.partition(".")[0])
    near = [] if hint else _nearest(name, [*known, *(_hydras() if name.startswith("hydra.") else ())])
    hint = hint or (f"Did you mean {' or '.join(near)}?" if near else "--help lists all options")
    return f"{name}: there is no such option. {hint}"


def _nearest(name: str, known: list[str]) -> list[str]:
    """Options that may be meant, by what other programs call them, by spelling, or by their last word."""
    group, _, last = name.rpartition(".")
    meant = [option for option in known if option.rpartition(".")[2] == _SYNONYMS.get(last)]
    own = [option for option in meant if option.rpartition(".")[0] == group] or meant
    groups = {option.rpartition(".")[0] for option in known} - {""}
    near = difflib.get_close_matches(name, [*known, *sorted(groups)], n=2, cutoff=0.6)
    return own[:2] or near or [option for option in known if option.rpartition(".")[2] == last]


@cache
def _hydras() -> tuple[str, ...]:
    """Options of our launcher and sweepers."""
    schemas = (("launcher", LauncherConfig), ("sweeper", FinalistsConfig), ("sweeper", HalvingConfig))
    return tuple(f"hydra.{group}.{name}" for group, schema in schemas for name in option_names(schema))
