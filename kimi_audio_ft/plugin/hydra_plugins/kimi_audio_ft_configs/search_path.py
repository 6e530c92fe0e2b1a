"""``conf/`` and ``experiments/`` beside whatever a user's own config searches. Hydra imports this at every start."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from kimi_audio_ft.config.schemas import store_schemas
from kimi_audio_ft.paths import config_dir, project_root

store_schemas()


class ConfigsSearchPath(SearchPathPlugin):
    """Appends both, so that a primary config of the user's may say ``defaults: [train, _self_]``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        searched = [one.path for one in search_path.get_path()]
        for folder in (config_dir(), str(project_root())):
            if folder not in searched and f"file://{folder}" not in searched:
                search_path.append("kimi_audio_ft", f"file://{folder}")
