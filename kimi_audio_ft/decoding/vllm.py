"""Hypotheses by vLLM: our prompts as embeddings, the base as a plain Qwen2, adapters as LoRA requests.

The greedy ones equal the native ones up to float noise; samples are other draws from the same distribution.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from kimi_audio_ft import store
from kimi_audio_ft.base import Base
from kimi_audio_ft.config.canonical import is_greedy
from kimi_audio_ft.config.commands import MergeConfig
from kimi_audio_ft.config.train import VLLM_MOST_RANK, DecodingConfig, VllmConfig
from kimi_audio_ft.data.dataset import Sample, Samples, make_batch
from kimi_audio_ft.decoding.generate import answer_limits, utterance_seed
from kimi_audio_ft.decoding.kept import Kept, kept
from kimi_audio_ft.decoding.request import Answer, Answers, DecodingRequest
from kimi_audio_ft.decoding.transcribe import MOST_POSITIONS, text_of
from kimi_audio_ft.decoding.vllm_process import VllmProcess
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.features.encode import DTYPES
from kimi_audio_ft.manifest.conversation import TEXT_EOS
from kimi_audio_ft.merging.export import write_leaf_adapter
from kimi_audio_ft.merging.merge import Merge, require_space, write
from kimi_audio_ft.merging.prompt_embeddings import PromptEmbeddings
from kimi_audio_ft.model.text_tokenizer import TextTokenizer
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.store.signature import digest_of
from kimi_audio_ft.store.usage import note

log = logging.getLogger(__name__)

KIND = "qwen2"
"""Products of the store that are bases as vLLM reads them."""
# The ranks that vLLM can be started for; adapters of lower ones fit.
_RANKS = (8, 16, 32, 64, 128, 256, VLLM_MOST_RANK)
# Orders that vLLM has at a time, so that it goes on with the next one while the last rows of one are decoded.
_ORDERS = 2
_REMEDY = "Use decoding.engine=native"


@dataclass(frozen=True)
class Prompts:
    """Conversations to decode: generation prompts, and the indices of those that are wanted."""

    samples: Samples
    indices: Sequence[int]

    def chunks(self) -> Iterator[list[int]]:
        """Indices of prompts that are handed over together, the longest first."""
        lengths = self.samples.lengths()[:, 0]
        chunk, positions = list[int](), 0
        for index in sorted(self.indices, key=lambda index: -lengths[index]):
            if chunk and positions + lengths[index] > MOST_POSITIONS:
                yield chunk
                chunk, positions = [], 0
            chunk.append(index)
            positions += int(lengths[index])
        if chunk:
            yield chunk


class Engine:
    """vLLM with a base; ends with the context.

    Args:
        rank: highest rank of adapters, one of vLLM's own; 0: none.
        should_stop: asked while it starts.
    """

    def __init__(self, base: Base, settings: VllmConfig, rank: int, should_stop: Callable[[], bool]) -> None:
        self.settings, self.identity, self.dtype, self.rank = settings, base.identity, base.settings.dtype, rank
        self.folder = qwen2_folder(base, should_stop)
        lora = {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1} if rank else {}
        arguments = {
            "model": str(self.folder),
            "dtype": self.dtype,
            "max_model_len": base.positions,
            "enable_prompt_embeds": True,
            "skip_tokenizer_init": True,
            **lora,
            **settings.options,
        }
        assert settings.python is not None, "DecodingConfig requires it"
        self.process = VllmProcess(settings.python, arguments, should_stop, on_cpu=base.accelerator == "cpu")
        self.numbers = count(1)  # of rows and adapters, each once

    def suits(self, base: Base, settings: VllmConfig, rank: int) -> bool:
        """Whether it can decode for this base and an adapter of this rank."""
        same = (self.identity, self.dtype) == (base.identity, base.settings.dtype) and self.settings == settings
        return same and self.rank >= rank

    @cached_property
    def embeddings(self) -> PromptEmbeddings:
        return PromptEmbeddings.from_pretrained(self.folder, DTYPES[self.dtype])


@contextmanager
def _engine(base: Base, settings: VllmConfig, rank: int, should_stop: Callable[[], bool]) -> Iterator[Engine]:
    """The kept engine, if it suits, or a new one; after an error it is closed, as it may be dead or at work."""
    own = kept() or Kept(rank)
    if own.engine is None or not own.engine.suits(base, settings, rank):
        for engine, error in own.failed:
            if engine.suits(base, settings, rank):
                raise error
        own.close()
        base.release()  # vLLM needs the GPU
        own.start(Engine(base, settings, _fitting(max(rank, own.rank)), should_stop))
    assert own.engine is not None, "it has been started"
    try:
        yield own.engine
    except BaseException:
        own.close()
        raise
    finally:
        if own is not kept():
            own.close()


def leave_gpu(base: Base) -> None:
    """Close a kept engine where the base, which is about to be loaded, needs its GPU."""
    own = kept()
    if own is not None and base.device.type == "cuda":
        own.close()


def _fitting(rank: int) -> int:
    return next(one for one in _RANKS if one >= rank) if rank else 0


def qwen2_folder(base: Base, should_stop: Callable[[], bool] = lambda: False) -> Path:
    """The base as a plain Qwen2 with its front end, in the number format of ``model.dtype``: a product of the store.

    Raises:
        UserError: the store's disk is too small. Interrupted: on ``should_stop``; nothing half-written stays.
    """
    settings = base.settings
    task = Merge(MergeConfig(adapter=None, out=KIND, model=settings, target="qwen2", dtype=settings.dtype))
    name = f"q{digest_of(task.facts)[1:]}"
    note([(KIND, name)])

    def make(folder: Path) -> dict[str, Any]:
        require_space(task, folder, "KIMI_AUDIO_FT_STORE", str(store_root()))
        log.info("the base is written as a plain Qwen2, once: %s", write(task, folder, should_stop))
        return {"base": base.identity, "model": settings.path, "dtype": settings.dtype}

    return store.find_or_make(KIND, name, make)[0]


def decode_by_vllm(
    base: Base,
    adapter: Path | None,
    prompts: Prompts,
    requests: Sequence[DecodingRequest],
    likelihoods: bool,
    on_batch: Callable[[Answers], None],
    should_stop: Callable[[], bool],
    progress: bool = False,
) -> dict[str, Any]:
    """Decode prompts under requests of the same ``decoding.vllm``; returns the versions of vLLM's packages.

    Args:
        adapter: folder of a saved adapter; None: the base alone.
        on_batch: called with the hypotheses of each conversation, one dict per request, in the order of their ends.

    Raises:
        DataError: vLLM cannot apply the adapter.
        UserError: vLLM cannot be started, or died.
        Interrupted: on ``should_stop``.
    """
    with tempfile.TemporaryDirectory(prefix="vllm-") as scratch, ExitStack() as held:
        exported, rank = Path(scratch) / "adapter", 0
        if adapter is not None:
            exported.mkdir()
            rank, _ = write_leaf_adapter(adapter, exported, _REMEDY)
            if rank > _RANKS[-1]:
                raise DataError(adapter, f"has rank {rank}, and vLLM takes at most {_RANKS[-1]}", _REMEDY)
        engine = held.enter_context(_engine(base, requests[0].setting.vllm, rank, should_stop))
        lora = {"id": next(engine.numbers), "path": str(exported)} if rank else None
        decoding = _Decoding(engine, base, requests, likelihoods, lora, Path(scratch))
        found = decoding.answers(prompts, should_stop)
        for new in track(found, "decoding", len(prompts.indices), disable=not progress, transient=True):
            on_batch(new)
        return engine.process.versions


@dataclass
class _Order:
    """Prompts in a file that vLLM has been handed. left: conversations without all of their answers."""

    file: Path
    left: int


@dataclass
class _Open:
    """A conversation that is being decoded. limits, answers: one per request."""

    id: str
    limits: Sequence[int]
    answers: dict[int, Answer] = field(default_factory=dict)


@dataclass
class _Decoding:
    """Prompts under requests, handed over in orders.

    lora: number and folder of the adapter. scratch: folder for what vLLM reads.
    """

    engine: Engine
    base: Base
    requests: Sequence[DecodingRequest]
    likelihoods: bool
    lora: dict[str, Any] | None
    scratch: Path
    _rows: dict[int, tuple[_Order, _Open, int]] = field(default_factory=dict)  # by number; the last: of the request

    def answers(self, prompts: Prompts, should_stop: Callable[[], bool]) -> Iterator[Answers]:
        """Hypotheses of each conversation, one dict per request, once it has all."""
        chunks, orders = prompts.chunks(), 0
        while True:
            while orders < _ORDERS and (chunk := next(chunks, None)) is not None:
                self._hand_over([prompts.samples[index] for index in chunk])
                orders += 1
            if not self._rows:
                return
            said = self.engine.process.receive(should_stop)
            order, one, request = self._rows.pop(said["row"])
            total = (said["log_probability"] or 0.0) if self.likelihoods else None
            one.answers[request] = answer_of(said["tokens"], total, one.limits[request], self.base)
            if len(one.answers) == len(self.requests):
                yield [{one.id: one.answers[index]} for index in range(len(self.requests))]
                order.left -= 1
                if not order.left:
                    order.file.unlink()
                    orders -= 1

    def _hand_over(self, samples: Sequence[Sample]) -> None:
        file = self.scratch / f"{next(self.engine.numbers)}.safetensors"
        order, tensors, rows = _Order(file, len(samples)), dict[str, Tensor](), list[dict[str, Any]]()
        for name, sample in enumerate(samples):
            settings = [one.setting for one in self.requests]
            prompt = Prompt.of(sample, self.engine.embeddings, settings, self.base.tokenizer)
            tensors[str(name)] = prompt.rows.contiguous()
            conversation = _Open(sample.id, prompt.limits)
            for index, (request, limit) in enumerate(zip(self.requests, prompt.limits, strict=True)):
                number = next(self.engine.numbers)
                self._rows[number] = order, conversation, index
                sampling = sampling_arguments(request, sample.id, limit, self._end, self.likelihoods)
                rows.append({"row": number, "prompt": str(name), "sampling": sampling})
        save_file(tensors, file)
        self.engine.process.send({"prompts": str(file), "rows": rows, "adapter": self.lora})

    @property
    def _end(self) -> int:
        return self.base.tokenizer.special_tokens[TEXT_EOS]


@dataclass(frozen=True)
class Prompt:
    """Embeddings ``[positions, hidden]`` of a generation prompt, and most text tokens of its answer by setting."""

    rows: Tensor
    limits: Sequence[int]

    @classmethod
    def of(
        cls, sample: Sample, embeddings: PromptEmbeddings, settings: Sequence[DecodingConfig], tokenizer: TextTokenizer
    ) -> Prompt:
        inputs, device = make_batch([sample], tokenizer.pad_id)["inputs"], embeddings.blank_embedding.weight.device
        streams = (inputs[name][0].to(device) for name in ("input_ids", "text_input_ids", "is_continuous_mask"))
        rows = embeddings(*streams, inputs["audio_features"]).cpu()
        return cls(rows, [answer_limits(embeddings, inputs, setting)[0] for setting in settings])


def sampling_arguments(
    request: DecodingRequest, utterance: str, limit: int, end: int, likelihoods: bool
) -> dict[str, Any]:
    """Arguments of vLLM's SamplingParams for an answer of at most ``limit`` tokens that ends with ``end``."""
    given = {"max_tokens": limit, "stop_token_ids": [end], "ignore_eos": True, "temperature": 0.0}
    if not is_greedy(request.setting):
        given["temperature"], given["top_k"] = request.setting.text_temperature, request.setting.text_top_k
        given["seed"] = utterance_seed(request.seed, request.repeat, utterance)
    return given | ({"logprobs": 0} if likelihoods else {})


def answer_of(tokens: Sequence[int], log_probability: float | None, limit: int, base: Base) -> Answer:
    """The answer that vLLM's tokens are. log_probability: of all of them, the end too; None: not asked for."""
    choices = 0 if log_probability is None else len(tokens)
    ends = bool(tokens) and tokens[-1] == base.tokenizer.special_tokens[TEXT_EOS]
    own = list(tokens[:-1] if ends else tokens)
    text = text_of(own, base.tokenizer, base.tokens.first)
    return Answer(text, len(own) >= limit, log_probability or 0.0, choices)
