"""``data=my/data``: a path where Hydra expects a choice of the group ``data``. Hydra imports this at every start."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from kimi_audio_ft.config.data_file import DATA_FILE, data_values, find_data_file, see
from kimi_audio_ft.errors import ConfigError

_SCHEME, _GROUP = "corpus", "data/"


class CorpusSource(ConfigSource):
    """Loads the ``data.yaml`` that a choice with a slash names; other choices are files of ``conf/data``."""

    @staticmethod
    def scheme() -> str:
        return _SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        choice = _choice(config_path)
        file = find_data_file(choice)
        if file is None:
            raise ConfigError("data", choice, f"there is no such file, or folder with {DATA_FILE}", see())
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(data_values(file)), {"package": None})

    def is_config(self, config_path: str) -> bool:
        choice = _choice(config_path)
        return choice.startswith(("/", "./", "../", "~")) or ("/" in choice and find_data_file(choice) is not None)

    def is_group(self, config_path: str) -> bool:
        return False

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []


def _choice(config_path: str) -> str:
    """What follows ``data=``; empty for another group."""
    return config_path.removeprefix(_GROUP) if config_path.startswith(_GROUP) else ""


class CorpusSearchPath(SearchPathPlugin):
    """Asks for such a file first: ``data=./demo`` is a folder here, not ``conf/data/demo.yaml``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.prepend("kimi_audio_ft", f"{_SCHEME}://")
