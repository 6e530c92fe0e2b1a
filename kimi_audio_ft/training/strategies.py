"""Lightning strategies (one device, DDP, FSDP2, DeepSpeed ZeRO-3) with adapter-only checkpoints.

Checkpoints have the same content under all of them: the whole adapter and AdamW's moments by parameter name. One
written on 8 ranks therefore resumes on 4, or under another strategy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from pytorch_lightning.plugins.precision import DeepSpeedPrecision, Precision
from pytorch_lightning.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from kimi_audio_ft.config.train import TrainerConfig
from kimi_audio_ft.training.adapters import adapter_parameters, moments, set_adapter_parameters, set_moments


class AdapterStrategy(Strategy):
    """Interface of a strategy to ``AdapterTraining``, in addition to Lightning's.

    trained: the final whole parameters of all adapters on every rank, by the PEFT model's names.
    """

    trained: dict[str, Tensor]
    # Not those of FSDP2 and DeepSpeed: rank 0 writes our checkpoints, every rank reads them whole.
    lightning_restore_optimizer = Strategy.lightning_restore_optimizer
    save_checkpoint = Strategy.save_checkpoint
    load_checkpoint = Strategy.load_checkpoint

    @property
    def ranks(self) -> int:
        return getattr(self, "world_size", 1)

    def shard(self, model: nn.Module) -> None:
        """Distribute the frozen base over the ranks."""

    def accumulating(self, last: bool) -> Any:
        """Context of a micro-batch's forward and backward pass; gradients are reduced after the step's last one."""
        return nullcontext()

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """The batch on this process's device; on a CPU it is there, and Lightning would look at every value of it."""
        return batch if self.root_device.type == "cpu" else super().batch_to_device(batch, device, dataloader_idx)

    def clip(self, parameters: Sequence[nn.Parameter], norm: float) -> Tensor:
        """Clip gradients to a norm, 0 to none; returns the norm that they had, which nobody waits for."""
        if norm:
            return nn.utils.clip_grad_norm_(parameters, norm)
        return nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None])

    def teardown(self) -> None:
        """Leave the base on its device: Lightning would move it to the CPU's memory, in every process."""
        environment = getattr(self, "cluster_environment", None)
        for part in (environment, self.precision_plugin, self.accelerator, self.checkpoint_io):
            if part is not None:
                part.teardown()

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """A whole optimizer step, which calls the wrapped model once per micro-batch."""
        assert self.lightning_module is not None
        return self.lightning_module.training_step(*args, **kwargs)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Parameters must be on their devices first."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """The whole adapter on the CPU; every rank must call this."""
        assert self.lightning_module is not None
        return adapter_parameters(self.lightning_module)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        set_adapter_parameters(self.lightning_module, checkpoint["state_dict"])
        # A training interrupted right at its end has nothing left to do.
        self.trained = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """AdamW's whole moments by parameter name; every rank must call this."""
        assert self.lightning_module is not None
        return moments(self.lightning_module, optimizer)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        assert self.lightning_module is not None
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_moments(self.lightning_module, optimizer, saved)


class OneDevice(AdapterStrategy, SingleDeviceStrategy):
    """One process with one device."""


class Copies(AdapterStrategy, DDPStrategy):
    """Every rank holds the whole base; gradients of the adapter are averaged (DistributedDataParallel)."""

    def accumulating(self, last: bool) -> Any:
        """Reduce gradients over the ranks at the last micro-batch only."""
        wrapped: Any = self.model
        return nullcontext() if last else wrapped.no_sync()

    def pre_backward(self, closure_loss: Tensor) -> None:
        """No-op: DistributedDataParallel prepares the backward pass in its forward."""


class Shards(AdapterStrategy, ModelParallelStrategy):
    """Every layer is sharded over the ranks and gathered while it computes (FSDP2, ``fully_shard``)."""

    def shard(self, model: nn.Module) -> None:
        """Shard layer by layer, so that no device holds more than one whole layer."""
        mesh = self.device_mesh["data_parallel"]
        for module in list(model.modules()):
            if isinstance(module, Qwen2DecoderLayer | WhisperEncoderLayer):
                fully_shard(module, mesh=mesh)
        self._sharded: Any = fully_shard(model, mesh=mesh)

    def clip(self, parameters: Sequence[nn.Parameter], norm: float) -> Tensor:
        whole: Any = super().clip(parameters, norm)
        return whole.full_tensor() if isinstance(whole, DTensor) else whole

    def accumulating(self, last: bool) -> Any:
        """Reduce gradients over the ranks at the last micro-batch only."""
        self._sharded.set_requires_gradient_sync(last)
        return nullcontext()


class KeepPrecision(DeepSpeedPrecision):
    """Casts nothing: the base keeps its dtype (bf16), the adapter is float32."""

    def __init__(self) -> None:
        super().__init__("32-true")

    convert_module = Precision.convert_module
    convert_input = Precision.convert_input
    tensor_init_context = Precision.tensor_init_context


class ZeroThree(AdapterStrategy, DeepSpeedStrategy):
    """Every parameter is partitioned over the ranks (DeepSpeed ZeRO, stage 3)."""

    @property
    def root_device(self) -> torch.device:
        """The rank's device; DeepSpeed needs its index even on a CPU."""
        own = super().root_device
        return own if own.type == "cuda" else torch.device("cpu", 0)

    def setup_environment(self) -> None:
        """Allow DeepSpeed on a CPU, where it is slow and serves tests; Lightning refuses it."""
        if self.root_device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
            DDPStrategy.setup_environment(self)
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        """As Lightning's, but without GPU indices on a CPU."""
        if self.root_device.type == "cpu":
            import deepspeed

            # An inference extension, which DeepSpeed would compile here for a minute and needs a compiler for.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            self.set_world_ranks()
            self._init_deepspeed_distributed()
        else:
            super().setup_distributed()

    def model_sharded_context(self) -> Any:
        """No-op: inside DeepSpeed's context every new tensor, shards included, would become float32."""
        return nullcontext()

    def shard(self, model: nn.Module) -> None:
        """Partition parameter by parameter; DeepSpeed would first put the whole model on every device."""
        import deepspeed

        self._init_config_if_needed()
        deepspeed.zero.Init(module=model, config_dict_or_path=self.config, remote_device=self.remote_device)
        for buffer in model.buffers():
            buffer.data = buffer.data.to(self.root_device)

    def clip(self, parameters: Sequence[nn.Parameter], norm: float) -> Tensor:
        """Nothing yet: DeepSpeed clips by its own config in its step, which fills in the norm."""
        self._norm = torch.zeros((), device=self.root_device)
        return self._norm

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        done = super().optimizer_step(*args, **kwargs)
        self._norm.copy_(torch.as_tensor(self.deepspeed_engine.get_global_grad_norm()))
        return done

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Mark the end of a step; DeepSpeed would count micro-batches across the end of an epoch."""
        engine = self.deepspeed_engine
        engine.set_gradient_accumulation_boundary(last)
        yield
        if not last:
            engine.step()


def make_strategy(
    settings: TrainerConfig, ranks: int, device: torch.device, max_grad_norm: float, unused: bool
) -> AdapterStrategy:
    """The strategy named by ``trainer.strategy``.

    Args:
        max_grad_norm: for DeepSpeed, which clips gradients itself.
        unused: whether some adapter parameters get no gradient (those of the audio branch with text answers, or of a
            failed adapter in a pack).
    """
    name = settings.strategy
    if name == "single" or (name == "ddp" and ranks == 1):
        return OneDevice(device=device)
    if name == "ddp":
        # Every rank makes the same adapter from the same seed: no broadcast is needed.
        return Copies(find_unused_parameters=unused, init_sync=False)
    if name == "fsdp":
        return Shards(data_parallel_size=ranks, tensor_parallel_size=1)
    config = {**settings.deepspeed, "gradient_clipping": max_grad_norm, "train_micro_batch_size_per_gpu": 1}
    return ZeroThree(config=config, precision_plugin=KeepPrecision())
