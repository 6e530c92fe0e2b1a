"""Configs of a sweep's jobs, equal to those that Hydra composes one by one, in a hundredth of the time.

Hydra reads and merges every file again for each job. Jobs of a sweep differ in plain values (``lora.r=8``), so that the
sweep's own config, or the first job's as Hydra composes it, is a template: the values in which others differ are put
into copies of it. Whatever is not plain is left to Hydra.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

Values = dict[str, Any]
_HYDRA = "hydra"
# The section that says of which files the sweep was composed, which are the same for all jobs, and a folder.
_RUNTIME = (_HYDRA, "runtime")


class Template:
    """The config of one job, as Hydra composed it, and its overrides.

    schema: the dataclass that it is of. values: all of it as written, Hydra's own part included.
    """

    def __init__(self, config: DictConfig, overrides: Sequence[Override] = ()) -> None:
        self._config, self._pickled = config, b""
        with suppress(pickle.PicklingError, AttributeError, TypeError):  # it has a class that is no module's
            self._pickled = pickle.dumps(config)
        self.overrides, self.schema = overrides, OmegaConf.get_type(config)
        self.values = cast(Values, OmegaConf.to_container(config, enum_to_str=True))
        self.is_plain = "${" not in str({key: value for key, value in self.values.items() if key != _HYDRA})
        self.has_dirname = not OmegaConf.is_interpolation(config.hydra.job, "override_dirname")  # as in Hydra 1.4
        self.naming = self.values[_HYDRA]["job"]["config"]["override_dirname"]
        self.texts: dict[tuple[str, ...], str] = {}
        self._lent: tuple[JobConfig, DictConfig] | None = None

    def copy(self) -> DictConfig:
        """A copy; unpickling is six times as fast as ``copy.deepcopy``."""
        config: DictConfig = pickle.loads(self._pickled) if self._pickled else deepcopy(self._config)
        return config

    def lend(self, job: JobConfig) -> DictConfig:
        """One copy for all jobs, one after the other."""
        if self._lent is not None and self._lent[0] is job:
            return self._lent[1]
        before, config = (self._lent[0].overrides, self._lent[1]) if self._lent else (self.overrides, self.copy())
        self._lent = None  # a value may be refused
        job.put_into(config, before)
        self._lent = job, config
        return config


@dataclass(frozen=True)
class JobConfig:
    """A job's config before it is composed: a thousand composed ones take half a gigabyte.

    master: the sweep's own config. template: a composed job that overrides the same keys. overrides: this job's; empty
    where Hydra composed it itself. number: of a job that is launched.
    """

    master: DictConfig
    template: Template
    overrides: Sequence[Override] = ()
    number: int | None = None

    def composed(self) -> DictConfig:
        """The config, equal to Hydra's."""
        config = self.template.copy()
        self.put_into(config, self.template.overrides)
        return config

    def lent(self) -> DictConfig:
        """The same to look at: it changes when another job's is looked at."""
        return self.template.lend(self)

    def put_into(self, config: DictConfig, before: Sequence[Override]) -> None:
        """Make this job's config of another one's, which has the other's overrides."""
        hydra = config.hydra
        for place in self._changed(before):
            override = self.overrides[place]
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
            hydra.overrides.task[place] = override.input_line
        for name, value in self._about().items():
            hydra.job[name] = value
        OmegaConf.copy_cache(from_config=self.master, to_config=config)

    def _about(self) -> Values:
        """The fields of ``hydra.job`` that differ between jobs: name, id, number."""
        naming, overrides = self.template.naming, self.overrides
        lines = sorted(str(one.input_line) for one in overrides if one.key_or_group not in naming["exclude_keys"])
        dirname = str(naming["item_sep"]).join(lines).replace("=", naming["kv_sep"])
        named = {"override_dirname": dirname} if overrides and self.template.has_dirname else {}
        if self.number is None:
            return named | {"id": MISSING, "num": MISSING}
        return named | {"id": str(self.number), "num": self.number}

    def _changed(self, before: Sequence[Override]) -> list[int]:
        """Places of the overrides that differ."""
        both = enumerate(zip(before, self.overrides, strict=True))
        return [place for place, (old, new) in both if old.input_line != new.input_line]

    @property
    def is_plain(self) -> bool:
        """Whether none of its own options refers to something, such as the environment, that may change."""
        return self.template.is_plain and not any("${" in str(one.input_line) for one in self.overrides)

    def values(self, folder: Path) -> Values:
        """The config as written, of a job that writes into a folder; unchanged sections are the template's own."""
        values = dict(self.template.values)
        for place in self._changed(self.template.overrides):
            path, inner = str(self.overrides[place].key_or_group).split("."), values
            for name in path[:-1]:
                inner[name] = dict(inner[name])
                inner = inner[name]
            inner.update(_written(self.lent(), path))
        own = values[_HYDRA]
        task = {"task": [str(one.input_line) for one in self.overrides]} if self.overrides else {}
        values[_HYDRA] = own | {
            "overrides": own["overrides"] | task,
            "job": own["job"] | self._about(),
            "runtime": own["runtime"] | {"output_dir": str(folder.absolute())},
        }
        return values

    def texts(self, values: Values) -> dict[str, str]:
        """Contents of the files that Hydra writes beside a job's records, by their names."""
        before, own = self.template.values, {name: values[name] for name in values if name != _HYDRA}
        config = "".join(self._text((name,), value, before[name]) for name, value in own.items())
        theirs = values[_HYDRA]
        hydra = "".join(self._text((_HYDRA, name), value, before[_HYDRA][name]) for name, value in theirs.items())
        overrides = to_yaml(theirs["overrides"]["task"])
        return {"config.yaml": config, "hydra.yaml": f"{_HYDRA}:\n{hydra}", "overrides.yaml": overrides}

    def _text(self, path: tuple[str, ...], value: Any, before: Any) -> str:
        """A section of a file; those that are the template's, or another job's, are written once."""
        texts, is_kept = self.template.texts, value is before or len(path) == 1
        key = path if value is before else (*path, repr(value))
        if is_kept and key in texts:
            return texts[key]
        if value is not before and path == _RUNTIME:
            text = "  runtime:\n" + "".join(self._text((*path, name), value[name], before[name]) for name in value)
        else:
            text = to_yaml(_nested(path, value)).split("\n", len(path) - 1)[-1]
        if is_kept:
            texts[key] = text
        return text


def _nested(path: Sequence[str], value: Any) -> Values:
    return {path[0]: value if len(path) == 1 else _nested(path[1:], value)}


def _written(config: DictConfig, path: Sequence[str]) -> Values:
    """The option at a path, and whatever else is beside it, as written."""
    if len(path) == 1:
        return cast(Values, OmegaConf.to_container(OmegaConf.masked_copy(config, [path[0]])))
    return cast(Values, OmegaConf.to_container(OmegaConf.select(config, ".".join(path[:-1]))))


class TemplateLoader:
    """Hydra's config loader with a quick ``load_sweep_config``; everything else is Hydra's own.

    A launcher puts it into the context that it shares with the sweeper: Hydra's sweepers compose every job of a batch
    too, only to see whether that can be done.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._master: DictConfig | None = None
        self._parsed: dict[str, tuple[Override, bool]] = {}
        self._templates: dict[tuple[str | None, ...], Template] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """A job's config, equal to Hydra's, until the next one is asked for: sweepers look at each and keep none.

        HydraException for overrides that Hydra refuses.
        """
        with suppress(HydraException, OmegaConfBaseException):  # Hydra says what is wrong with the job
            return self._job(master_config, sweep_overrides).lent()
        return self._loader.load_sweep_config(master_config, list(sweep_overrides))

    def job(self, master: DictConfig, overrides: Sequence[str], number: int) -> JobConfig:
        """A job's config, fixed now: a file that is edited later changes nothing.

        Raises:
            HydraException: Hydra refuses the overrides.
        """
        with suppress(HydraException, OmegaConfBaseException):
            job = self._job(master, overrides, number)
            job.lent()
            return job
        return JobConfig(master, Template(self._loader.load_sweep_config(master, list(overrides))), (), number)

    def _job(self, master: DictConfig, overrides: Sequence[str], number: int | None = None) -> JobConfig:
        if master is not self._master:
            self._master, self._parsed, self._templates = master, {}, {}
        for override in overrides:
            if override not in self._parsed:  # which takes Hydra half a millisecond, and a sweep repeats its values
                self._parsed[override] = _parsed(override, master)
        parsed = [self._parsed[override] for override in overrides]
        key = tuple(one.key_or_group if is_value else one.input_line for one, is_value in parsed)
        if key not in self._templates:
            config = self._of_master(master, parsed)
            if config is None:
                config = self._loader.load_sweep_config(master, list(overrides))
            if len({*key}) < len(key) or not _are_choices([one for one, is_value in parsed if not is_value], config):
                return JobConfig(master, Template(config), (), number)
            self._templates[key] = Template(config, [one for one, _ in parsed])
        return JobConfig(master, self._templates[key], [one for one, _ in parsed], number)

    def _of_master(self, master: DictConfig, parsed: Sequence[tuple[Override, bool]]) -> DictConfig | None:
        """A job's config out of the sweep's own, which Hydra composed of the same files; None where it may be another.

        The choices of groups alone decide about the files, and values that are swept are not in the sweep's own config.
        """
        given = [_parsed(str(line), master) for line in master.hydra.overrides.task]
        chosen = [one.input_line for one, is_value in given if not (is_value or one.is_sweep_override())]
        choices, names = [one for one, is_value in parsed if not is_value], [one.key_or_group for one, _ in parsed]
        if (
            chosen != [one.input_line for one in choices]
            or any(isinstance(one.value(), dict) for one in choices)
            or not _are_choices(choices, master)
            or not {one.key_or_group for one, is_value in given if is_value} <= {*names}
            or len({*names}) < len(names)
            or MISSING in master.hydra.runtime.choices.values()
        ):
            return None
        try:
            config: DictConfig = pickle.loads(pickle.dumps(master))
        except (pickle.PicklingError, AttributeError, TypeError):
            return None
        task = config.hydra.overrides.task
        task.clear()
        for override, is_value in parsed:
            task.append(override.input_line)
            if is_value:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        return config


def _parsed(override: str, master: DictConfig) -> tuple[Override, bool]:
    """An override, and whether it is a plain value."""
    (parsed,) = OverridesParser.create().parse_overrides([override])
    return parsed, _is_value(parsed, master)


def _is_value(override: Override, master: DictConfig) -> bool:
    """Whether it changes one value that is there, whatever else is changed: ``a.b=1``, also ``a.b=[1,2]``.

    A dict, which is merged into what is there, is left to Hydra, and so is an item of a list.
    """
    key = str(override.key_or_group)
    return (
        override.type is OverrideType.CHANGE
        and override.package is None
        and ("." in key or (key not in master.hydra.runtime.choices and not OmegaConf.is_dict(master.get(key, {}))))
        and "/" not in key
        and not any(name.isdecimal() for name in key.split("."))
        and not override.is_hydra_override()
        and not override.is_sweep_override()
        and not isinstance(override.value(), dict)
    )


def _are_choices(overrides: Sequence[Override], config: DictConfig) -> bool:
    """Whether each chooses a file of a group."""
    choices = config.hydra.runtime.choices
    return not any(one.is_hydra_override() or one.get_key_element().lstrip("+") not in choices for one in overrides)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # libyaml, where PyYAML has it
    """Writes what ``OmegaConf.to_yaml`` writes, several times as fast."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quoted where OmegaConf would read a number or a truth value."""
    quoted = text in ("y", "Y", "n", "N") or _NUMBER.fullmatch(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)


_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|[-+]?inf(inity)?|nan", re.IGNORECASE)
_Dumper.add_representer(str, _text)


def shared_environment(master: DictConfig) -> dict[str, str]:
    """The part of a sweep's ``hydra.job.env_set`` that is the same for all jobs; Hydra refuses to sweep it.

    Values that refer to a trial's own options, or to its number or folder, are left out.
    """
    own = OmegaConf.masked_copy(master, [_HYDRA])
    OmegaConf.copy_cache(from_config=master, to_config=own)  # the time in the sweep's folder
    before, HydraConfig.instance().cfg = HydraConfig.instance().cfg, own  # type: ignore[assignment]
    found = {}
    try:
        for name in own.hydra.job.env_set:
            with suppress(OmegaConfBaseException):
                found[str(name)] = str(own.hydra.job.env_set[name])
    finally:
        HydraConfig.instance().cfg = before
    return found


def to_yaml(values: Any) -> str:
    """``OmegaConf.to_yaml`` of plain values."""
    return str(yaml.dump(values, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False))
