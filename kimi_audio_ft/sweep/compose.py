"""Configs of a sweep's jobs, equal to those that Hydra composes one by one, in a tenth of the time.

Hydra reads and merges every file again for each job. Jobs of a sweep differ in plain values (``lora.r=8``), so one
config is composed by Hydra for each distinct choice of groups, and the values are then put into copies of it by Hydra's
own function. Whatever is not plain is left to Hydra.
"""

from __future__ import annotations

import copy
import gc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.base import Metadata, Node
from omegaconf.errors import OmegaConfBaseException


class TemplateLoader:
    """Hydra's config loader with a quick ``load_sweep_config``; everything else is Hydra's own.

    A launcher puts it into the context that it shares with the sweeper: Hydra's sweepers compose every job of a batch
    too, only to see whether that can be done.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._master: DictConfig | None = None
        self._templates: dict[tuple[str, ...], DictConfig | None] = {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """A job's config, equal to Hydra's.

        Raises:
            HydraException: as Hydra, for overrides that it refuses.
        """
        if master_config is not self._master:
            self._master, self._templates = master_config, {}
        config = _from_template(self._loader, master_config, sweep_overrides, self._templates)
        return self._loader.load_sweep_config(master_config, list(sweep_overrides)) if config is None else config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def quick(loader: ConfigLoader) -> ConfigLoader:
    """The loader itself if it is quick, else one that is."""
    return loader if isinstance(loader, TemplateLoader) else cast(ConfigLoader, TemplateLoader(loader))


def compose_jobs(
    loader: ConfigLoader, master: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> list[DictConfig]:
    """One config per job, with its number (from ``first``), equal to what ``load_sweep_config`` gives.

    Raises:
        HydraException: as Hydra, for the first job whose overrides it refuses.
    """
    loader, configs = quick(loader), []
    with _no_garbage_collection():
        for number, overrides in enumerate(job_overrides, start=first):
            config = loader.load_sweep_config(master, list(overrides))
            with open_dict(config):
                config.hydra.job.id = number
                config.hydra.job.num = number
            configs.append(config)
    return configs


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A thousand configs are millions of live objects; scanning them again and again takes a third of the time."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _from_template(
    loader: ConfigLoader,
    master: DictConfig,
    overrides: Sequence[str],
    templates: dict[tuple[str, ...], DictConfig | None],
) -> DictConfig | None:
    """A job's config, or None when Hydra shall compose it."""
    try:
        parsed = [_parsed(override) for override in overrides]
    except HydraException:  # Hydra says what is wrong with it
        return None
    others = [override for override in parsed if not _is_value(override, master)]
    values = [override for override in parsed if _is_value(override, master)]
    lines = tuple(str(override.input_line) for override in others)
    if lines not in templates:
        templates[lines] = _template(loader, master, others)
    template = templates[lines]
    if template is None:
        return None
    config = copied(template)
    try:
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except (HydraException, OmegaConfBaseException):
        return None
    config.hydra.overrides.task = list(overrides)
    naming = config.hydra.job.config.override_dirname
    config.hydra.job.override_dirname = get_overrides_dirname(
        overrides=parsed, kv_sep=naming.kv_sep, item_sep=naming.item_sep, exclude_keys=naming.exclude_keys
    )
    OmegaConf.copy_cache(from_config=master, to_config=config)
    return config


def _template(loader: ConfigLoader, master: DictConfig, others: list[Override]) -> DictConfig | None:
    """The config with these choices of groups; None unless each of them is one, which needs Hydra to know."""
    if any(override.is_hydra_override() or override.is_delete() or override.is_sweep_override() for override in others):
        return None
    try:
        config = loader.load_sweep_config(master, [str(override.input_line) for override in others])
    except (HydraException, OmegaConfBaseException):
        return None  # with the job's values too, Hydra's message is about the job
    choices = config.hydra.runtime.choices
    chosen = all(override.get_key_element().lstrip("+") in choices for override in others)
    return config if chosen else None


@lru_cache(maxsize=100_000)
def _parsed(override: str) -> Override:
    """Parsing takes Hydra half a millisecond, and a sweep repeats its values."""
    return OverridesParser.create().parse_overrides([override])[0]


def _is_value(override: Override, master: DictConfig) -> bool:
    """Whether it changes one value that is there, whatever else is changed: ``a.b=1``, also ``a.b=[1,2]``.

    A dict, which is merged into what is there, is left to Hydra.
    """
    key = override.key_or_group
    return (
        override.type is OverrideType.CHANGE
        and override.package is None
        and ("." in key or (key not in master.hydra.runtime.choices and not OmegaConf.is_dict(master.get(key, {}))))
        and "/" not in key
        and not override.is_hydra_override()
        and not override.is_sweep_override()
        and not isinstance(override.value(), dict)
    )


# Copies of a config, equal to those of ``copy.deepcopy``, in a fraction of the time.


def copied(config: DictConfig) -> DictConfig:
    """A copy of ``config`` that shares nothing that can be changed with it; its parent stays, as in ``deepcopy``."""
    twin = _node(config, config._get_parent())
    assert isinstance(twin, DictConfig)
    return twin


def _node(node: Node, parent: Any) -> Node:
    """``node`` and everything below it, under ``parent``."""
    twin: Node = object.__new__(type(node))
    # OmegaConf's nodes keep everything in __dict__, past their own __setattr__.
    fields = twin.__dict__
    fields.update(node.__dict__)
    fields["_metadata"], fields["_parent"], fields["_flags_cache"] = _metadata(node._metadata), parent, None
    if "_content" in fields:
        fields["_content"] = _content(fields["_content"], twin)
    if "_val" in fields and not isinstance(fields["_val"], str | int | float | bool | None):
        fields["_val"] = copy.deepcopy(fields["_val"])
    return twin


def _content(content: Any, twin: Node) -> Any:
    """A container's content: nodes by key, in a list or alone, or no node (None, an interpolation, ``???``)."""
    if isinstance(content, dict):
        return {key: _node(value, twin) for key, value in content.items()}
    if isinstance(content, list):
        return [_node(value, twin) for value in content]
    return _node(content, twin) if isinstance(content, Node) else content


def _metadata(metadata: Metadata) -> Metadata:
    twin: Metadata = object.__new__(type(metadata))
    twin.__dict__.update(metadata.__dict__)
    if twin.flags is not None:
        twin.flags = dict(twin.flags)
    twin.resolver_cache = copy.deepcopy(twin.resolver_cache) if twin.resolver_cache else defaultdict(dict)
    return twin
