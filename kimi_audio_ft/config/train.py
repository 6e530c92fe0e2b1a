"""Structured configs: one dataclass per config group, one sentence per field, and the checks of their values.

Hydra refuses misspelt keys and wrong types while composing; ``__post_init__`` runs when a command turns the composed
config into these objects (``cli/settings.py``), before anything else, and ``--help`` prints the sentences. The defaults
are the published LoRA experiment's, but decoding is greedy as in the published inference code; the tiny model's own
values are in ``conf/``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from kimi_audio_ft.config.checks import at_least, below_one, count_or_auto, expand_home, needs_package, one_of, require
from kimi_audio_ft.config.manifests import TEST, evaluation_sets, guard_sets, parts_of_training
from kimi_audio_ft.config.prompt import PromptConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.paths import expanded

# Error rates that trials can be ranked by, and what messages call them. Of the strict texts, but normalised_cer.
RATES = {
    "cer": "CER",
    "normalised_cer": "normalised CER",
    "mer": "MER",
    "wer": "WER",
    "pinyin": "syllable error rate",
}
# Options that change a result by luck alone: trials that differ in nothing else are one setting.
SEEDS = ("seed", "data.train_subset_seed")


@dataclass
class ScoringConfig:
    """Options of scores, which never decode again; the strict error rates are the same under all of them."""

    fillers: list[str] = field(default_factory=list)  # Words left out of the normalised column, such as ["嗯","呃"].
    erhua: bool = True  # Count the suffix 儿 in the normalised column; false takes 哪儿 for 哪 (儿子 and 女儿 stay).
    traditional: bool = True  # Count 臺灣 for 台湾 as an error in the normalised column; false needs opencc.
    readings: bool = True  # Count 十点半 for 10:30 as an error in the normalised column; false takes them for the same.
    terms: str | None = None  # File of domain terms, one a line, whose errors are counted apart; null is none.
    names: str | None = None  # File of persons' names, one a line, beside those with a title (吴总); null is none.
    # What trials are ranked, tested and stopped by: cer, normalised_cer, mer, wer or pinyin (syllables without tones).
    rank_by: str = "cer"

    def __post_init__(self) -> None:
        one_of("scoring.rank_by", self.rank_by, tuple(RATES))
        if not self.traditional:
            needs_package("opencc", "traditional", "scoring.traditional", False)
        for word in self.fillers:
            if not word.strip() or word != word.strip():
                raise ConfigError("scoring.fillers", word, "must be words without white space around them")
        for name in ("terms", "names"):
            path = getattr(self, name)
            # Now, not when hours of training are over.
            if path is not None and not expanded(path).is_file():
                rule = "must name a text file with one word a line, and there is no such file"
                raise ConfigError(f"scoring.{name}", path, rule, "Check the path, or use null for no list")


SHARDED = ("fsdp", "deepspeed_zero3")
STRATEGIES = ("single", "ddp", *SHARDED)
# Keys of DeepSpeed's config that would contradict trainer.accumulate, data.batch_size, optim and model.dtype.
DEEPSPEED_OURS = (
    *("gradient_accumulation_steps", "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_clipping"),
    *("optimizer", "scheduler", "bf16", "fp16", "torch_autocast"),
)
DEFAULT_PROMPT = "请将语音内容转录为文字。"


@dataclass
class AugmentConfig:
    """Perturbations of the training audio; every epoch draws anew from the seed."""

    speeds: list[float] = field(default_factory=lambda: [1.0])  # Factors of which each utterance draws one.
    gains_db: list[float] = field(default_factory=lambda: [0.0])  # Volume changes in dB of which each draws one.
    time_masks: int = 0  # Number of spans of consecutive feature frames set to zero (SpecAugment).
    time_mask_frames: int = 4  # Largest width of such a span, in frames of 80 ms.
    channel_masks: int = 0  # Number of bands of feature channels set to zero (SpecAugment).
    channel_mask_width: int = 16  # Largest width of such a band, in channels.
    noise_folder: str | None = None  # Recordings of noise that is added to the speech; null is none.
    # Lowest and highest signal-to-noise ratio in dB; one between them is drawn for every utterance.
    noise_snr: list[float] = field(default_factory=lambda: [5.0, 20.0])
    noise_probability: float | None = None  # Part of the utterances that get noise; null is half, given a folder.
    room_folder: str | None = None  # Impulse responses of rooms that the speech is put into; null is none.
    room_probability: float | None = None  # Part of the utterances that get a room; null is half, given a folder.
    versions: int = 2  # How many noises and rooms are drawn for every recording; each utterance draws one of them.

    def __post_init__(self) -> None:
        expand_home(self, "noise_folder", "room_folder")
        for speed in self.speeds:
            require(0.5 <= speed <= 2.0, "data.augment.speeds", speed, "a speed factor lies between 0.5 and 2.0")
        for gain in self.gains_db:
            require(-40 <= gain <= 20, "data.augment.gains_db", gain, "a volume change lies between -40 and 20 dB")
        require(bool(self.speeds), "data.augment.speeds", self.speeds, "needs at least one factor", "Write [1.0]")
        require(bool(self.gains_db), "data.augment.gains_db", self.gains_db, "needs at least one value", "Write [0.0]")
        at_least(0, self, "data.augment.", "time_masks", "channel_masks")
        at_least(1, self, "data.augment.", "time_mask_frames", "channel_mask_width", "versions")
        self._check_sounds()

    def _check_sounds(self) -> None:
        for kind in ("noise", "room"):
            folder, probability = getattr(self, f"{kind}_folder"), getattr(self, f"{kind}_probability")
            if folder is not None:
                rule = "must name a folder of recordings, and there is no such folder"
                there = bool(folder) and expanded(folder).is_dir()
                require(there, f"data.augment.{kind}_folder", folder, rule, "Use null for none")
            if probability is not None:
                option = f"data.augment.{kind}_probability"
                require(0 <= probability <= 1, option, probability, "must lie between 0 and 1")
                needed = folder is not None or probability == 0
                require(needed, option, probability, "needs recordings", f"Give data.augment.{kind}_folder=FOLDER")
        snr = self.noise_snr
        ordered = len(snr) == 2 and -20 <= snr[0] <= snr[1] <= 60
        rule = "must be the lowest and the highest signal-to-noise ratio, between -20 and 60 dB"
        require(ordered, "data.augment.noise_snr", snr, rule, "Write [5,20]")


@dataclass
class DataConfig:
    """The manifests, how their audio is read, and how batches are made."""

    train_manifest: Any = ""  # Pretokenized JSONL that adapters are trained on; or several, as a list.
    # Pretokenized JSONL that is decoded and scored, and gives the validation loss; or several, by name or as a list:
    # all together are scored, and each by itself.
    eval_manifest: Any = ""
    # Pretokenized JSONL that no trial sees: the recommended one is decoded on it once, after the sweep; null is none.
    test_manifest: str | None = None
    # Sets by name of what shall not be forgotten, such as {general: FILE}: decoded after the sweep by the base and the
    # best trials, which are not chosen by them; null is none.
    guard_manifests: Any = None
    # How often an epoch takes each conversation of each training manifest: 3 is three times, 0.5 one half of them and
    # the next epoch the other half, 0 none; null is once.
    train_weights: list[float] | None = None
    # Train on recordings that are evaluated or tested, to see how well they can be learned.
    allow_overlap: bool = False
    prompt: str | None = None  # Used instead of every conversation's own text prompt; null keeps the manifest's.
    train_subset: int | None = None  # How many conversations to train on, taken by whole recordings; null is all.
    train_subset_seed: int = 1  # Seed that picks them; with the same seed a smaller subset is part of a larger one.
    audio_root: str | None = None  # Folder that relative audio paths start from; null is the manifest's own folder.
    features: str = "cached"  # cached: encode once into the store; online: encode in every step; none: codes only.
    # Longer conversations (positions, both streams) are left out of training and reported. At most the model's
    # positions; evaluation decodes all conversations, and refuses those that are longer than the model's positions.
    max_length: int = 8192
    batch_size: int = 1  # Largest number of conversations in a micro-batch.
    max_batch_tokens: int = 8192  # Largest padded number of positions in a micro-batch.
    bucket_by_length: bool = True  # Put conversations of similar length together, in a random order of batches.
    num_workers: Any = "auto"  # Worker processes that read and lay out conversations; auto: up to 4 on a GPU, else 0.
    # Most padded positions that a GPU computes at once, of all adapters of a pack: the conversations of a step are put
    # together into passes of so many, whatever its micro-batches are; auto: as many as its memory holds. Results depend
    # on it by rounding only; a CPU computes micro-batches one by one.
    pass_positions: Any = "auto"
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # Perturbations of the training audio.

    def __post_init__(self) -> None:
        expand_home(self, "train_manifest", "eval_manifest", "test_manifest", "guard_manifests", "audio_root")
        parts_of_training(self.train_manifest, self.train_weights)
        evaluation_sets(self.eval_manifest)
        require(self.test_manifest != "", TEST, self.test_manifest, "must name a manifest", "Use null for none")
        guard_sets(self.guard_manifests)
        one_of("data.features", self.features, ("cached", "online", "none"))
        at_least(1, self, "data.", "max_length", "batch_size", "max_batch_tokens")
        at_least(1, self, "data.", "train_subset", remedy="Use null for all conversations")
        if self.num_workers != "auto":
            whole = isinstance(self.num_workers, int) and not isinstance(self.num_workers, bool)
            require(whole and self.num_workers >= 0, "data.num_workers", self.num_workers, "must be auto, or 0 or more")
        count_or_auto("data.pass_positions", self.pass_positions)
        if self.prompt is not None:
            require(bool(self.prompt.strip()), "data.prompt", self.prompt, "must not be empty", "Use null to keep it")


@dataclass
class ModelConfig:
    """The frozen base."""

    path: str = "tiny"  # Checkpoint folder in the published layout, or a hub id; "tiny" is the embedded model.
    revision: str | None = None  # Commit, tag or branch of a hub id; null is the one in the cache, or the newest.
    speech_tokenizer: str | None = None  # Folder or hub id of the GLM-4 voice tokenizer; null is inside model.path.
    dtype: str = "bfloat16"  # Number format of the frozen base: float32 or bfloat16. Adapters are always float32.
    # Recompute activations in the backward pass to save memory: true, false, or auto, only where the memory at hand
    # would otherwise hold too few positions.
    gradient_checkpointing: Any = False
    attention: str = "sdpa"  # Attention implementation of transformers: sdpa, eager or flash_attention_2.
    # Operations of layers, adapters and loss: plain is transformers' and PEFT's own, fused few of ours that agree
    # within rounding; auto is ours in float32, and fused in bfloat16 on a GPU.
    kernels: str = "auto"
    quantization: str | None = None  # nf4: the layers' linears in 4 bits (QLoRA, needs bitsandbytes); null: none.

    def __post_init__(self) -> None:
        require(bool(self.path), "model.path", self.path, "must name a checkpoint folder", "Use tiny or a path")
        one_of("model.dtype", self.dtype, ("float32", "bfloat16"))
        recompute = self.gradient_checkpointing
        known = isinstance(recompute, bool) or recompute == "auto"
        require(known, "model.gradient_checkpointing", recompute, "must be true, false or auto")
        one_of("model.attention", self.attention, ("sdpa", "eager", "flash_attention_2"))
        if self.attention == "flash_attention_2":
            rule = "computes in 16 bits only, and the base is to be in float32"
            require(
                self.dtype != "float32", "model.attention", self.attention, rule, "Use sdpa, or model.dtype=bfloat16"
            )
        one_of("model.kernels", self.kernels, ("auto", "plain", "fused"))
        if self.quantization is not None:
            one_of("model.quantization", self.quantization, ("nf4",))


@dataclass
class LoraConfig:
    """The adapter; fields map onto peft.LoraConfig."""

    r: int = 8  # Rank of the update of every target.
    lora_alpha: int | None = None  # Scale of the update; null is twice the rank.
    lora_dropout: float = 0.05  # Dropout in front of the update, while training.
    target_modules: Any = "decoder"  # A preset, a regular expression over full module paths, or a list of paths.
    use_rslora: bool = False  # Scale by alpha / sqrt(r) instead of alpha / r (arXiv 2312.03732).
    use_dora: bool = False  # Learn magnitude and direction apart (arXiv 2402.09353).
    init_lora_weights: str = "default"  # Start of the update, as in PEFT: default, gaussian or orthogonal.

    def __post_init__(self) -> None:
        require(self.r >= 1, "lora.r", self.r, "the rank must be 1 or more", "Use baseline=true for no adapter")
        if self.lora_alpha is None:
            self.lora_alpha = 2 * self.r
        at_least(1, self, "lora.", "lora_alpha")
        below_one(self, "lora.", "lora_dropout")
        targets = [self.target_modules] if isinstance(self.target_modules, str) else self.target_modules
        named = isinstance(targets, list) and bool(targets) and all(isinstance(t, str) and t for t in targets)
        rule = "must be a preset, a regular expression over module paths, or a list of them"
        require(named, "lora.target_modules", self.target_modules, rule)
        # PEFT's other starts (pissa, olora, ...) change the base's weights, which all adapters here share.
        one_of("lora.init_lora_weights", self.init_lora_weights, ("default", "gaussian", "orthogonal"))
        if self.init_lora_weights == "orthogonal":
            require(self.r % 2 == 0, "lora.r", self.r, "lora.init_lora_weights=orthogonal needs an even rank")


@dataclass
class OptimConfig:
    """AdamW, its schedule, and how the loss is averaged."""

    lr: float = 5e-5  # Peak learning rate.
    weight_decay: float = 0.0  # Decoupled weight decay of the adapter.
    beta1: float = 0.9  # AdamW's decay of the first moment.
    beta2: float = 0.999  # AdamW's decay of the second moment.
    eps: float = 1e-8  # AdamW's epsilon.
    schedule: str = "linear"  # Decay after warm-up: linear or cosine to zero, or constant.
    warmup_ratio: float = 0.03  # Part of all steps in which the rate rises from zero to lr.
    max_grad_norm: float = 1.0  # Gradients are clipped to this norm; 0 does not clip.
    loss_average: str = "sample"  # sample: mean over conversations, as published; token: mean over answer tokens.

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", self.lr, "the learning rate must be greater than 0")
        at_least(0, self, "optim.", "weight_decay", "max_grad_norm")
        below_one(self, "optim.", "beta1", "beta2", "warmup_ratio")
        require(self.eps > 0, "optim.eps", self.eps, "must be greater than 0")
        one_of("optim.schedule", self.schedule, ("linear", "cosine", "constant"))
        one_of("optim.loss_average", self.loss_average, ("sample", "token"))


NATIVE, VLLM = "native", "vllm"
# Arguments of vLLM that follow from our own options and files, or that its prompts need.
VLLM_OURS = (
    *("model", "dtype", "max_model_len", "enable_prompt_embeds", "skip_tokenizer_init", "tokenizer"),
    *("enable_lora", "max_lora_rank", "max_loras"),
)

VLLM_MOST_RANK = 512
"""Highest rank of an adapter that vLLM applies."""
_VLLM_COLDEST = 0.01
_LONGEST_WAIT = 86_400.0


@dataclass
class VllmConfig:
    """vLLM: in an environment that is not ours, as its versions of PyTorch differ, or as a running server."""

    python: str | None = None  # Python of an environment that has vLLM, such as vllm_env/bin/python.
    # More arguments of vLLM's engine: {tensor_parallel_size: 2}, {gpu_memory_utilization: 0.5}. They count as part of
    # the setting, since some change results.
    options: dict[str, Any] = field(default_factory=dict)
    # Address of a running vLLM server, such as http://127.0.0.1:8000, which decodes for `serve` in place of python.
    url: str | None = None
    timeout: float = 120.0  # Seconds that a running server may take over a piece; then the request fails.

    def __post_init__(self) -> None:
        expand_home(self, "python")
        at_address = self.url is None or _is_address(self.url)
        rule = "must be the address of a vLLM server"
        remedy = "Write decoding.vllm.url=http://HOST:PORT; the environment variable VLLM_API_KEY has its key, if any"
        shown = self.url and re.sub("(//[^:/]*):.*@", r"\1:***@", self.url)  # messages end in logs, passwords must not
        require(at_address, "decoding.vllm.url", shown, rule, remedy)
        self.url = self.url and self.url.rstrip("/").removesuffix("/v1")
        rule = f"must be greater than 0 and at most {_LONGEST_WAIT:g}"
        require(0 < self.timeout <= _LONGEST_WAIT, "decoding.vllm.timeout", self.timeout, rule)
        for name in self.options:
            rule = f"{name} follows from other options"
            require(name not in VLLM_OURS, "decoding.vllm.options", self.options, rule, "Leave it out")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port
        return False
    return whole and not ("@" in parts.netloc or parts.query or parts.fragment or re.search(r"\s", url))


@dataclass
class DecodingConfig:
    """How hypotheses are generated. Nothing here ever retrains an adapter."""

    text_temperature: float = 0.0  # Sampling temperature of the text; 0 is greedy.
    text_top_k: int = 5  # Sample among the k likeliest tokens; 0 is all of them.
    text_repetition_penalty: float = 1.0  # Divides the logits of recent tokens; 1 does nothing.
    text_repetition_window_size: int = 16  # How many recent tokens that penalty looks back.
    max_new_tokens: int | None = None  # Longest hypothesis in text tokens; null is 256, or one for every audio code.
    repeats: int = 1  # Independent samplings of the whole evaluation set; greedy decoding is done once.
    # Utterances decoded together; auto: as many as a GPU's memory holds with all answers at their longest, 8 on a CPU.
    # In float32 no answer depends on it; in bfloat16 about 3 in 100 do, so there the value is part of a transcript's
    # signature (auto is one value, whatever the memory).
    batch_size: Any = 8
    # native, or vllm: from prompt embeddings, by an engine in an environment of its own. Its samples are others than
    # the native ones, drawn from the same distribution.
    engine: str = NATIVE
    vllm: VllmConfig = field(default_factory=VllmConfig)

    def __post_init__(self) -> None:
        temperature = self.text_temperature
        require(temperature >= 0, "decoding.text_temperature", temperature, "must be 0 (greedy) or more")
        require(self.text_top_k >= 0, "decoding.text_top_k", self.text_top_k, "must be 0 (all) or more")
        penalty = self.text_repetition_penalty
        require(penalty >= 1, "decoding.text_repetition_penalty", penalty, "must be 1 (off) or more")
        at_least(1, self, "decoding.", "text_repetition_window_size", "max_new_tokens", "repeats")
        count_or_auto("decoding.batch_size", self.batch_size)
        one_of("decoding.engine", self.engine, (NATIVE, VLLM))
        if self.engine == VLLM:
            self._check_vllm()

    def _check_vllm(self) -> None:
        self._check_whose_vllm()
        cold = 0 < self.text_temperature < _VLLM_COLDEST
        rule = f"vLLM draws at {_VLLM_COLDEST} where less is asked for"
        require(not cold, "decoding.text_temperature", self.text_temperature, rule, "Use 0, or decoding.engine=native")
        rule = "decoding.engine=vllm penalises the prompt's tokens too, which the published rule does not"
        fine = self.text_repetition_penalty == 1
        require(
            fine,
            "decoding.text_repetition_penalty",
            self.text_repetition_penalty,
            rule,
            "Use 1, or decoding.engine=native",
        )

    def _check_whose_vllm(self) -> None:
        vllm, python = self.vllm, "decoding.vllm.python"
        rule = "must name the Python of an environment that has vLLM"
        remedy = (
            "Make one (docs/recogniser.md, Decoding by vLLM), and give its bin/python; `serve` takes decoding.vllm.url"
        )
        require(bool(vllm.python) or vllm.url is not None, python, vllm.python, rule, remedy)
        if vllm.url is not None:
            rule = f"runs already, and {python} would start another vLLM"
            require(not vllm.python, "decoding.vllm.url", vllm.url, rule, "Give one of them")
            rule = "are of a vLLM that is started here, and decoding.vllm.url runs already"
            require(not vllm.options, "decoding.vllm.options", vllm.options, rule, "Start that server with them")

    def require_engine_fits(
        self, model: ModelConfig, features: str, option: str = "data.features", server: bool = False
    ) -> None:
        """Raise a ConfigError if the engine cannot decode with such a base or such features.

        Args:
            server: requests of others are decoded, by a server of vLLM where that is the engine.
        """
        if self.engine == NATIVE:
            return
        at, url = "decoding.vllm.url", self.vllm.url
        if server:
            require(url is not None, at, url, "must be the address of a running vLLM server", "See docs/recogniser.md")
        else:
            rule = "a running vLLM server decodes for `serve` alone"
            require(url is None, at, url, rule, "Give decoding.vllm.python")
        rule, remedy = "decoding.engine=vllm decodes with a base in model.dtype", "Use decoding.engine=native"
        require(model.quantization is None, "model.quantization", model.quantization, rule, remedy)
        rule = "decoding.engine=vllm hears recordings by stored features only"
        require(features != "online", option, features, rule, "Use cached, or decoding.engine=native")


@dataclass
class TrainerConfig:
    """How long and on what an adapter is trained."""

    max_epochs: int = 5  # Passes over the training manifest.
    max_steps: int = -1  # Stop after this many optimizer steps; -1 is no limit.
    accumulate: int = 8  # Micro-batches of every process in an optimizer step.
    strategy: str = "single"  # single, ddp (a whole base per process), or its shards: fsdp, deepspeed_zero3.
    devices: Any = "auto"  # Processes, one for each GPU, that train and decode; auto: every GPU (one on a CPU).
    deepspeed: dict[str, Any] = field(default_factory=dict)  # DeepSpeed's own config, for deepspeed_zero3.
    accelerator: str = "auto"  # Lightning accelerator: auto, cpu or gpu.
    threads: int = 0  # CPU threads of PyTorch; 0 leaves its own choice.
    log_every: int = 50  # Optimizer steps between two points of the training curve.
    val_every: int = 0  # Optimizer steps between two validation losses; 0 is once per epoch.
    save_every: int = 1000  # Optimizer steps between two checkpoints to resume from.
    save_keep: int = 5  # How many of these are kept while training.
    progress: bool = True  # Show progress bars.

    def __post_init__(self) -> None:
        limit = self.max_steps
        require(limit == -1 or limit >= 1, "trainer.max_steps", limit, "must be -1 (no limit) or 1 or more")
        at_least(1, self, "trainer.", "max_epochs", "accumulate", "log_every", "save_every", "save_keep")
        at_least(0, self, "trainer.", "threads", "val_every")
        one_of("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu"))
        one_of("trainer.strategy", self.strategy, STRATEGIES)
        count_or_auto("trainer.devices", self.devices)
        zero = self.deepspeed.get("zero_optimization", {}).get("stage")
        if self.strategy == "deepspeed_zero3":
            rule = "deepspeed_zero3 needs stage 3"
            require(zero == 3, "trainer.deepspeed.zero_optimization.stage", zero, rule, "Use trainer=deepspeed_zero3")
        for name in DEEPSPEED_OURS:
            rule = "is set from our own options"
            require(name not in self.deepspeed, f"trainer.deepspeed.{name}", self.deepspeed.get(name), rule)


@dataclass
class LoggerConfig:
    """Where a trial's curves and scores go besides its own folder."""

    kind: str = "wandb"  # wandb, tensorboard, csv or none.
    # W&B's own variables (WANDB_PROJECT, _ENTITY, _NAME, _RUN_GROUP, _NOTES, _TAGS) hold where an option is not given.
    project: str | None = None  # W&B project; null is kimi_audio_ft.
    entity: str | None = None  # W&B team or user; null is the account's default.
    name: str | None = None  # W&B name of a single run, or what the names of a sweep's runs begin with.
    group: str | None = None  # W&B group; null is the sweep's folder, and none for a single run.
    notes: str | None = None  # W&B notes.
    mode: str = "auto"  # W&B mode: online, offline, or auto (online when logged in, offline otherwise).
    tags: list[str] = field(default_factory=list)  # W&B tags of every trial.
    utterance_rows: int = 200  # Most rows of the utterance table; 0 logs none.
    adapter: bool = False  # Upload the adapter, as a model artifact.
    system_metrics: bool = True  # Record processor, memory and GPU while a trial trains.
    audio: bool = False  # Put the audio into the utterance table; off, since 200 clips of 10 s are 64 MB a trial.

    def __post_init__(self) -> None:
        one_of("logger.kind", self.kind, ("wandb", "tensorboard", "csv", "none"))
        if self.kind == "tensorboard":
            needs_package("tensorboard", "tensorboard", "logger.kind", self.kind, "logger=csv needs none")
        rule = "must be one of auto, online, offline"
        require(self.mode != "disabled", "logger.mode", self.mode, rule, "Write logger=none for no W&B")
        one_of("logger.mode", self.mode, ("auto", "online", "offline"))
        at_least(0, self, "logger.", "utterance_rows")


def _lora_with_open_alpha() -> LoraConfig:
    """LoRA's defaults as OmegaConf shall read them: it would fix alpha at twice the *default* rank."""
    lora = LoraConfig()
    lora.lora_alpha = None
    return lora


@dataclass
class _TrialConfig:
    data: DataConfig = field(default_factory=DataConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    seed: int = 1  # Seeds the adapter's start, the data order, dropout and sampling.


@dataclass
class TrainConfig(_TrialConfig):
    """``python -m kimi_audio_ft.train``: one trial, or a sweep of them with ``-m``."""

    lora: LoraConfig = field(default_factory=_lora_with_open_alpha)
    optim: OptimConfig = field(default_factory=OptimConfig)
    baseline: bool = True  # Also decode and score the base without an adapter, once per decoding setting.

    def __post_init__(self) -> None:
        self.lora = replace(self.lora)  # settles its alpha
        if self.model.quantization is not None:
            rule = f"4-bit weights cannot be spread by trainer.strategy={self.trainer.strategy}"
            whole = self.trainer.strategy not in SHARDED
            require(whole, "model.quantization", self.model.quantization, rule, "Use trainer=ddp")
        self.decoding.require_engine_fits(self.model, self.data.features)
        if self.decoding.engine == VLLM:
            rule = "decoding.engine=vllm applies plain LoRA only"
            require(not self.lora.use_dora, "lora.use_dora", True, rule, "Use decoding.engine=native")
            rule = f"decoding.engine=vllm applies ranks up to {VLLM_MOST_RANK}"
            require(self.lora.r <= VLLM_MOST_RANK, "lora.r", self.lora.r, rule, "Use decoding.engine=native")


@dataclass
class EvaluateConfig(_TrialConfig):
    """``python -m kimi_audio_ft.evaluate``: a saved adapter, or the base alone, on a manifest."""

    losses: bool = False  # Also write losses into utterances.jsonl: each reference's (nats per token), and its tokens'.
    # Adapter folder in PEFT's format, a signature in the store, or the folder of a sweep, which recommends one; null is
    # the base alone.
    adapter: str | None = None
    any_base: bool = False  # Use an adapter on another base than the one that it was trained on.

    def __post_init__(self) -> None:
        self.decoding.require_engine_fits(self.model, self.data.features)
