"""Options of ``hydra/launcher=packed``; Hydra composes them as ``hydra.launcher``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kimi_audio_ft.engine.cluster_settings import RayConfig, SlurmConfig
from kimi_audio_ft.schema import one_of, require


@dataclass
class LauncherConfig:
    """How a sweep's adapters are trained together, and where."""

    _target_: str = "hydra_plugins.kimi_audio_ft_packed.launcher.PackedLauncher"
    pack_size: Any = "auto"  # Adapters that train together at most; auto tries a few sizes, 1 trains each by itself.
    pack_same_data: bool = True  # Only adapters with the same seed share a pack; false also packs over seeds.
    dispatch: str = "auto"  # slice (bit-equal to solo on a CPU), batched (faster on a GPU), auto: by the device.
    executor: str = "local"  # local: this machine; slurm and ray: packs are jobs of a cluster.
    gpus_per_pack: Any = "auto"  # GPUs of one pack; auto: as many as trainer.devices asks for.
    # Packs side by side; auto: what the GPUs (or Ray) hold, without GPUs the cores at trainer.threads, 4 Slurm jobs.
    parallel: Any = "auto"
    slurm: SlurmConfig = field(default_factory=SlurmConfig)  # What a Slurm job asks for.
    ray: RayConfig = field(default_factory=RayConfig)  # What a Ray task asks for.

    def __post_init__(self) -> None:
        for name in ("pack_size", "gpus_per_pack", "parallel"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            require(value == "auto" or whole, f"hydra.launcher.{name}", value, "must be auto, or 1 or more")
        one_of("hydra.launcher.dispatch", self.dispatch, ("auto", "slice", "batched"))
        one_of("hydra.launcher.executor", self.executor, ("local", "slurm", "ray"))
