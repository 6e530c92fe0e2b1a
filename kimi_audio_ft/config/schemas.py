"""Every command's dataclass by the name of its primary config; Hydra is given them as ``NAME_schema``."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from kimi_audio_ft.config.commands import CombineConfig, ExportAdapterConfig, MergeConfig, PrepareConfig, TokenizeConfig
from kimi_audio_ft.config.serve import ServeConfig
from kimi_audio_ft.config.train import EvaluateConfig, TrainConfig
from kimi_audio_ft.config.transcribe import TranscribeConfig

SCHEMAS: dict[str, type] = {
    "prepare": PrepareConfig,
    "tokenize": TokenizeConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "transcribe": TranscribeConfig,
    "combine": CombineConfig,
    "serve": ServeConfig,
    "merge": MergeConfig,
    "export_adapter": ExportAdapterConfig,
}


def store_schemas() -> None:
    """Let Hydra find them, in this process's own commands and in a ``compose`` of the user's."""
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema, provider="kimi_audio_ft")
