"""The frozen base: in memory once per process; adapters are put on and taken off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_audio_ft import store
from kimi_audio_ft.config.train import LoraConfig, ModelConfig
from kimi_audio_ft.errors import ChangedError, ConfigError, DataError
from kimi_audio_ft.features.identity import features_of
from kimi_audio_ft.files import read_json_object
from kimi_audio_ft.lora.targets import (
    linears_of,
    matched,
    needs_branch,
    needs_features,
    needs_whisper,
    reached,
    target_pattern,
)
from kimi_audio_ft.manifest.conversation import TokenRange
from kimi_audio_ft.model.files import ModelFiles, locate
from kimi_audio_ft.model.text_tokenizer import CONFIG_NAME, RANKS_NAME, TextTokenizer
from kimi_audio_ft.paths import expanded, store_root
from kimi_audio_ft.runtime.devices import avoid_wrong_kernels, device, limit_threads
from kimi_audio_ft.store.cache import remember
from kimi_audio_ft.store.digests import file_digest, folder_digest
from kimi_audio_ft.store.make import META
from kimi_audio_ft.store.usage import note
from kimi_audio_ft.sweep_folder import TRIALS, recommended_trial

if TYPE_CHECKING:  # a sweep that finds everything in the store does without these, and they take seconds to import
    import torch
    from peft import PeftModel

    from kimi_audio_ft.features.encode import Encoders
    from kimi_audio_ft.model import KimiAudioForCausalLM

_REMEDY = "Set model.path to a Kimi-Audio checkpoint"
# Raise it when the model's modules are named in another way.
# 2: all modules, not only the linears.
_LAYOUT_VERSION = 2


def module_names(files: ModelFiles) -> dict[str, list[str]]:
    """Full paths of the ``modules`` of the whole model, Whisper included, and of those that are ``linears``."""
    configs = [path for path in (files.root / "config.json", files.whisper / "config.json") if path.is_file()]
    facts = [_LAYOUT_VERSION, version("transformers"), *map(file_digest, configs)]

    def make() -> dict[str, list[str]]:
        model = on_meta(files)
        return {"modules": [name for name, _ in model.named_modules()], "linears": linears_of(model)}

    return remember("layouts", facts, make)


def on_meta(files: ModelFiles) -> KimiAudioForCausalLM:
    """The whole model, Whisper included, without its weights."""
    import torch

    from kimi_audio_ft.model.checkpoint import read_config
    from kimi_audio_ft.model.decoder import KimiAudioForCausalLM
    from kimi_audio_ft.model.whisper import WhisperFeatureExtractor

    with torch.device("meta"):
        model = KimiAudioForCausalLM(read_config(files.root))
        config = files.whisper / "config.json"
        if config.is_file():
            model.attach_whisper(WhisperFeatureExtractor(read_json_object(config, "Download the checkpoint again")))
    return model


@lru_cache(maxsize=2)
def _text_tokenizer(root: Path, digest: str) -> TextTokenizer:
    return TextTokenizer.from_pretrained(root)


def recompute(model: KimiAudioForCausalLM) -> None:
    """Let a model that has its adapters keep every layer's input only, and compute the rest again when it is needed."""
    model.gradient_checkpointing_enable({"use_reentrant": False})


# The base in this process's memory, by all that decides its content: at most one, until ``Base.release``.
_LOADED: dict[tuple, KimiAudioForCausalLM] = {}


@dataclass
class Base:
    """A checkpoint as this run uses it.

    features: "cached", "online" or "none" (``DataConfig.features``); online attaches the Whisper encoder.
    threads: CPU threads of PyTorch; 0 leaves its own choice.
    plain: computes as PEFT, transformers and the published encoder do, for comparisons.
    """

    settings: ModelConfig
    features: str
    accelerator: str = "auto"
    threads: int = 0
    plain: bool = False
    sharded: bool = False  # stays in the CPU's memory until a training's strategy spreads it over its ranks

    def __post_init__(self) -> None:
        self.plain = self.plain or self.settings.kernels == "plain"

    @property
    def fused(self) -> bool:
        """Whether layers in bfloat16 are computed in few operations, as it pays on a GPU."""
        chosen = self.settings.kernels == "fused" or (self.settings.kernels == "auto" and self.device.type == "cuda")
        return chosen and not self.plain and not self.sharded

    @cached_property
    def files(self) -> ModelFiles:
        return locate(self.settings)

    @cached_property
    def identity(self) -> str:
        """Identity of the base's own files."""
        return self.files.identity()

    @cached_property
    def identities(self) -> dict[str, Any]:
        """Identities of the checkpoint's parts that a run reads."""
        features = {} if self.features == "none" else {"encoders": features_of(self.files, self.settings.dtype)}
        return {"base": self.identity, **features}

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        root = self.files.root
        return _text_tokenizer(root, folder_digest(root, (RANKS_NAME, CONFIG_NAME)))

    @cached_property
    def _config(self) -> dict[str, Any]:
        return read_json_object(self.files.root / "config.json", _REMEDY)

    @cached_property
    def positions(self) -> int:
        """The longest sequence that the model was made for."""
        most = self._config.get("max_position_embeddings", 8192)  # the published one's where it is not written
        return most if isinstance(most, int) else 8192

    @cached_property
    def tokens(self) -> TokenRange:
        """The model's audio codes."""
        root, config = self.files.root, self._config
        first, size = config.get("kimia_token_offset"), config.get("vocab_size")
        if not isinstance(first, int) or not isinstance(size, int):
            from kimi_audio_ft.model.checkpoint import read_config

            read = read_config(root)  # says what is wrong, or knows the published default
            first, size = read.kimia_token_offset, read.vocab_size
        return TokenRange(first, size)

    @cached_property
    def _names(self) -> dict[str, tuple[str, ...]]:
        return {kind: tuple(names) for kind, names in module_names(self.files).items()}

    @property
    def device(self) -> torch.device:
        """The GPU of this process when there is one and it may be used."""
        return device(self.accelerator)

    def encoders(self, features: bool | None = None) -> Encoders:
        from kimi_audio_ft.features.encode import DTYPES, Encoders

        kept = self.features == "cached" if features is None else features
        return Encoders(self.files, kept, DTYPES[self.settings.dtype], str(self.device))

    def targets(self, lora: LoraConfig) -> list[str]:
        """Full paths of the linears that an adapter changes, looked up without reading a weight.

        Raises:
            ConfigError: a target matches nothing, or needs what this run does not compute.
        """
        names = matched(self._names["linears"], lora.target_modules)
        if needs_whisper(names) and self.features != "online":
            rule = "adapts the Whisper encoder, whose features then change while training"
            raise ConfigError("lora.target_modules", lora.target_modules, rule, "Set data.features=online")
        if needs_features(names) and self.features == "none":
            rule = "adapts the adaptor of Whisper's features, which is idle without them"
            remedy = "Set data.features=cached or online, or use lora=decoder"
            raise ConfigError("lora.target_modules", lora.target_modules, rule, remedy)
        return names

    def reached(self, lora: LoraConfig) -> str:
        """Digest of all that an adapter changes: equal for targets that are the same, however they are written."""
        return reached(self._names["modules"], target_pattern(lora.target_modules))

    def require_one_gpu_holds_it(self, strategy: str) -> None:
        """Raise a ConfigError if decoding, which needs the whole base on a GPU, cannot follow a sharded training."""
        if self.device.type != "cuda":
            return
        import torch

        from kimi_audio_ft.features.encode import DTYPES

        used = [
            parameter.numel()
            for name, parameter in on_meta(self.files).named_parameters()
            if not needs_branch([name]) and (self.features == "online" or not needs_whisper([name]))
        ]
        size = sum(used) * DTYPES[self.settings.dtype].itemsize / 1e9
        room = torch.cuda.get_device_properties(self.device).total_memory / 1e9
        if size > room:
            rule = (
                f"spreads the base over GPUs, but decoding needs it whole: {size:.3g} GB, and a GPU has {room:.3g} GB"
            )
            remedy = "Use GPUs with more memory, or trainer=ddp with model.quantization=nf4"
            raise ConfigError("trainer.strategy", strategy, rule, remedy)

    def about_to_compute(self) -> None:
        """Set PyTorch's threads; called before anything is computed in a process of several trials."""
        limit_threads(self.threads)

    def load(self, audio_branch: bool = False) -> KimiAudioForCausalLM:
        """The frozen base on its device; read once per process unless something about it differs.

        Raises:
            ChangedError: its files were changed before they were read to the end.
        """
        import torch

        target = torch.device("cpu") if self.sharded else self.device
        if self.device.type == "cuda":
            avoid_wrong_kernels()
        facts = (self.settings.dtype, self.settings.attention, self.settings.quantization)
        key = (self.identity, *facts, audio_branch, self.features == "online", str(target))
        if key not in _LOADED or any(parameter.device != target for parameter in _LOADED[key].parameters()):
            _LOADED.clear()  # never two copies
            _LOADED[key] = self._read(audio_branch, target)
            if self.files.identity() != self.identity:
                self.release()
                raise ChangedError(self.files.root, "while it was being read")
        _LOADED[key].set_plain(self.plain or self.sharded, self.plain)
        _LOADED[key].set_fused(self.fused)
        return _LOADED[key]

    def _read(self, audio_branch: bool, target: torch.device) -> KimiAudioForCausalLM:
        import torch

        from kimi_audio_ft.features.encode import DTYPES
        from kimi_audio_ft.model.decoder import KimiAudioForCausalLM
        from kimi_audio_ft.model.quantization import quantize_layers
        from kimi_audio_ft.model.whisper import WhisperFeatureExtractor

        settings, dtype = self.settings, DTYPES[self.settings.dtype]
        first = torch.device("cpu") if settings.quantization else target
        model = KimiAudioForCausalLM.from_pretrained(self.files.root, dtype, audio_branch, first)
        try:
            model.set_attn_implementation(settings.attention)
        except (ImportError, ValueError) as error:
            rule = f"cannot be used here ({' '.join(str(error).split())})"
            raise ConfigError("model.attention", settings.attention, rule, "Use model.attention=sdpa") from None
        if settings.quantization:
            quantize_layers(model, target)
        if self.features == "online":
            whisper = WhisperFeatureExtractor.from_pretrained(self.files.whisper, dtype, target)
            model.attach_whisper(whisper.requires_grad_(False))
        return model

    def release(self) -> None:
        """Free the weights in memory, so that other processes have the devices to themselves."""
        import torch

        _LOADED.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextmanager
    def _dropped_on_error(self) -> Iterator[None]:
        """Read the base again after an error in between: PEFT may have wrapped some of its layers."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    @contextmanager
    def new_adapters(self, adapters: Mapping[str, tuple[LoraConfig, int]]) -> Iterator[PeftModel]:
        """The base with fresh adapters by name, from their settings and seeds; all are taken off at the end."""
        from kimi_audio_ft.lora.adapter import add_adapters

        model = self.load(any(needs_branch(self.targets(lora)) for lora, _ in adapters.values()))
        with self._dropped_on_error():
            adapted = add_adapters(model, adapters, str(self.files.root))
        if self.settings.gradient_checkpointing is True:  # auto: whoever knows the batches decides
            recompute(model)  # now, for before it PEFT would put a hook on the embedding too
        adapted.train()  # layers in eval mode would quietly not recompute their activations
        try:
            yield adapted
        finally:
            if model.is_gradient_checkpointing:
                model.gradient_checkpointing_disable()
                model.disable_input_require_grads()  # the hook that enabling put on the embedding of a model with PEFT
            adapted.unload()
            model.eval().requires_grad_(False)

    def saved_targets(self, folder: Path) -> PeftTargets:
        """What a saved adapter changes; ConfigError: it changes the Whisper encoder, and features are not online."""
        targets = PeftTargets.of(folder)
        if targets.whisper and self.features != "online":
            rule = f"the adapter in {folder} changes the Whisper encoder, so stored features do not fit it"
            raise ConfigError("data.features", self.features, rule, "Set data.features=online")
        return targets

    @contextmanager
    def saved_adapter(self, folder: Path | None) -> Iterator[torch.nn.Module]:
        """The base with a saved adapter, or alone, for decoding."""
        from kimi_audio_ft.lora.adapter import ONE, load_adapter
        from kimi_audio_ft.lora.update import own_updates

        if folder is None:
            yield self.load()
            return
        branch = self.saved_targets(folder).branch
        with self._dropped_on_error():
            adapted = load_adapter(self.load(branch), folder)
        try:
            with nullcontext() if self.plain else own_updates(adapted, ONE):
                yield adapted
        finally:
            adapted.unload()


@dataclass(frozen=True)
class PeftTargets:
    """Parts of the model outside the decoder that a saved adapter changes, by the names of its tensors."""

    branch: bool
    whisper: bool

    @classmethod
    def of(cls, folder: Path) -> PeftTargets:
        """Read the names in an adapter's file; a damaged one has none, and ``load_adapter`` says what is wrong."""
        from safetensors import SafetensorError, safe_open

        from kimi_audio_ft.lora.adapter import PEFT_PREFIX, WEIGHTS

        try:
            with safe_open(folder / WEIGHTS, framework="pt") as tensors:
                names = [key.removeprefix(PEFT_PREFIX) for key in tensors.keys()]  # noqa: SIM118 - a safetensors file is no dict
        except (OSError, SafetensorError):
            names = []
        return cls(needs_branch(names), needs_whisper(names))


def require_base(base: Base, folder: Path, any_base: bool = False) -> None:
    """Raise a ConfigError if the adapter in ``folder`` is known to be another base's, unless ``any_base``.

    Kimi-Audio-7B and its Instruct have the same shapes, so that nothing else would tell.
    """
    meta = read_json_object(folder / META, "Train it again") if (folder / META).is_file() else {}
    if any_base or meta.get("base") in (None, base.identity):
        return
    trained_on = meta.get("config", {}).get("model", {}).get("path")
    rule = f"the adapter in {folder} was trained on another base ({trained_on})"
    raise ConfigError("model.path", base.settings.path, rule, "Set that model.path, or any_base=true to insist")


def base_facts(folder: Path) -> dict[str, Any]:
    """What a copy of the adapter in ``folder`` has to say of its base, for ``require_base``; empty where unknown."""
    meta = read_json_object(folder / META, "Train it again") if (folder / META).is_file() else {}
    if meta.get("base") is None:
        return {}
    path = meta.get("config", {}).get("model", {}).get("path")
    return {"base": meta["base"], "config": {"model": {"path": path}}}


def find_adapter(adapter: str | None) -> tuple[str, Path] | None:
    """Signature (or digest) and folder of an adapter given as a signature in the store, a folder, or a sweep's folder.

    Raises:
        UserError: there is no such adapter, it is corrupted, or the sweep recommends none.
    """
    if adapter is None:
        return None
    folder = expanded(adapter)
    if (folder / TRIALS).is_file():
        signature, _ = recommended_trial(folder)
        if signature is None:
            rule = "is a sweep that recommends the base alone"
            raise ConfigError("adapter", adapter, rule, "Name one of its adapters, or adapter=null")
        if not (store.product_path("adapter", signature) / META).is_file():
            problem = f"recommends the adapter {signature}, which is not in the store {store_root()}"
            raise DataError(adapter, problem, "Set KIMI_AUDIO_FT_STORE to the sweep's store, or run the sweep again")
        return find_adapter(signature)
    stored = store.product_path("adapter", folder.name)
    if (stored / META).is_file() and (adapter == folder.name or folder.resolve() == stored):
        note([("adapter", folder.name)])
        if store.find("adapter", folder.name) is None:
            remedy = "Train it again by the command that made it, which sets this one aside"
            raise DataError(stored, f"is corrupted ({store.damage(stored)})", remedy)
        return folder.name, stored
    if not folder.is_dir():
        rule = (
            "must be an adapter folder in PEFT's format, a signature from `python -m kimi_audio_ft.store ls`, or the "
        )
        raise ConfigError("adapter", adapter, f"{rule}folder of a sweep", "Use adapter=null for the base alone")
    return folder_digest(folder, ("adapter_*",)), folder
