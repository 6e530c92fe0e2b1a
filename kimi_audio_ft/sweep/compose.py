"""Configs of a sweep's jobs, equal to those that Hydra composes one by one, in a tenth of the time.

Hydra reads and merges every file again for each job. Jobs of a sweep differ in plain values (``lora.r=8``), so Hydra
composes one template for each distinct choice of groups, and the values are put into copies of it. Whatever is not
plain is left to Hydra.
"""

from __future__ import annotations

import gc
import pickle
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException


class TemplateLoader:
    """Hydra's config loader with a quick ``load_sweep_config``; everything else is Hydra's own.

    A launcher puts it into the context that it shares with the sweeper: Hydra's sweepers compose every job of a batch
    too, only to see whether that can be done.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._master: DictConfig | None = None
        self._templates: dict[tuple[str | None, ...], bytes | None] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """A job's config, equal to Hydra's; HydraException for overrides that Hydra refuses."""
        if master_config is not self._master:
            self._master, self._templates = master_config, {}
        try:
            config = self._from_template(master_config, sweep_overrides)
        except (HydraException, OmegaConfBaseException):  # Hydra says what is wrong with the job
            config = None
        return self._loader.load_sweep_config(master_config, list(sweep_overrides)) if config is None else config

    def _from_template(self, master: DictConfig, overrides: Sequence[str]) -> DictConfig | None:
        """A job's config; None when its overrides are not plain."""
        groups: list[Override] = []
        values: list[Override] = []
        for override in map(_parsed, overrides):
            (values if _is_value(override, master) else groups).append(override)
        lines = tuple(override.input_line for override in groups)
        if lines not in self._templates:
            self._templates[lines] = self._template(master, groups)
        template = self._templates[lines]
        if template is None:
            return None
        config: DictConfig = pickle.loads(template)
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        config.hydra.overrides.task = list(overrides)
        job = config.hydra.job
        if not OmegaConf.is_interpolation(job, "override_dirname"):  # which it is since Hydra 1.4
            naming = job.config.override_dirname
            named = [one for one in [*groups, *values] if one.key_or_group not in naming.exclude_keys]
            joined = naming.item_sep.join(sorted(str(one.input_line) for one in named))
            job.override_dirname = joined.replace("=", naming.kv_sep)
        OmegaConf.copy_cache(from_config=master, to_config=config)
        return config

    def _template(self, master: DictConfig, groups: Sequence[Override]) -> bytes | None:
        """The config with these choices of groups, pickled: unpickling it is six times as fast as ``copy.deepcopy``.

        None unless each of them is such a choice, and for configs with classes that cannot be pickled.
        """
        config = self._loader.load_sweep_config(master, [str(override.input_line) for override in groups])
        choices = config.hydra.runtime.choices
        if any(one.is_hydra_override() or one.get_key_element().lstrip("+") not in choices for one in groups):
            return None
        try:
            return pickle.dumps(config)
        except (pickle.PicklingError, AttributeError, TypeError):
            return None


def compose_jobs(
    loader: ConfigLoader | TemplateLoader, master: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> list[DictConfig]:
    """One config per job, with its number (from ``first``); HydraException for the first job that Hydra refuses."""
    configs = []
    collecting = gc.isenabled()
    gc.disable()  # scanning the objects of a thousand configs again and again takes a third of the time
    try:
        for number, overrides in enumerate(job_overrides, start=first):
            config = loader.load_sweep_config(master, list(overrides))
            with open_dict(config):
                config.hydra.job.id = number
                config.hydra.job.num = number
            configs.append(config)
    finally:
        if collecting:
            gc.enable()
    return configs


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


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # libyaml, where PyYAML has it
    """Writes what ``OmegaConf.to_yaml`` writes, several times as fast."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quoted where OmegaConf would read a number or a truth value."""
    quoted = text in ("y", "Y", "n", "N") or _NUMBER.fullmatch(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)


_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|[-+]?inf(inity)?|nan", re.IGNORECASE)
_Dumper.add_representer(str, _text)


def to_yaml(values: Any) -> str:
    """``OmegaConf.to_yaml`` of plain values."""
    return str(yaml.dump(values, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False))
