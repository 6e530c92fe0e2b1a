"""Transcripts of an evaluation set, under every setting that is asked for: products of the store."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kimi_audio_ft import store
from kimi_audio_ft.base import Base, base_inputs
from kimi_audio_ft.config.train import DataConfig, DecodingConfig
from kimi_audio_ft.decoding.request import Pass, Request, is_greedy
from kimi_audio_ft.decoding.transcribe import transcribe
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.files import read_jsonl, write_jsonl
from kimi_audio_ft.manifest.manifest import manifest_identity, read_manifest, reference_identity, require_references
from kimi_audio_ft.scoring import ScoringOptions
from kimi_audio_ft.scoring.trial_scores import Surroundings, score_repeats
from kimi_audio_ft.store.cache import seen_once
from kimi_audio_ft.store.make import find_or_make_all
from kimi_audio_ft.store.signature import canonical, signature

_FILE = "transcripts.jsonl"
# Semantic codes come at 12.5 Hz.
_SECONDS_PER_CODE = 0.08
# The evaluation set of the last trial, under all that it depends on but its files.
_HELD: dict[str, EvaluationSet] = {}


@dataclass
class Transcripts:
    """Hypotheses by id, one dict per repeat, and what making them took in all (seconds)."""

    signatures: list[str]
    hypotheses: list[dict[str, str]]
    seconds: float


class EvaluationSet:
    """The conversations that are decoded and scored.

    identity: of all that decoding sees, with the prompt. reference_identity: of what is scored, whatever the prompt;
    trials whose are equal may be compared.
    """

    def __init__(self, base: Base, settings: DataConfig) -> None:
        self.base, self.settings = base, settings
        path = settings.eval_manifest
        require_manifest("data.eval_manifest", path)
        self.conversations = read_manifest(path, settings.audio_root, settings.prompt, base.tokens, base.tokenizer)
        require_references(self.conversations, path)
        self._state = self._state_now()
        self.identity = manifest_identity(self.conversations)
        self.reference_identity = reference_identity(self.conversations)
        self._scores: dict[Any, dict[str, Any]] = {}

    def scores(self, transcripts: Transcripts, options: ScoringOptions) -> dict[str, Any]:
        """Scores of the repeats, as ``score_repeats`` has them; every trial shows the base's, which are made once."""
        key = (*transcripts.signatures, options)
        if key not in self._scores:
            self._scores[key] = score_repeats(
                self.references, transcripts.hypotheses, self.surroundings.recordings, options
            )
        return dict(self._scores[key])

    def _state_now(self) -> tuple[Any, ...]:
        return self.conversations.source.state(), self.conversations.recordings.states().tobytes()

    def is_current(self) -> bool:
        """Whether manifest and recordings are as they were."""
        return self._state == self._state_now()

    @cached_property
    def references(self) -> dict[str, str]:
        """Reference of every conversation by id."""
        return {conversation.id: conversation.reference for conversation in self.conversations}

    @cached_property
    def audio(self) -> dict[str, str | None]:
        """First recording of every conversation by id."""
        return {c.id: str(c.audio_paths[0]) if c.audio_paths else None for c in self.conversations}

    @cached_property
    def surroundings(self) -> Surroundings:
        """What else a row of ``utterances.jsonl`` says of every conversation; seconds are of whole codes."""
        ids = list(self.references)
        seconds = (self.conversations.num_codes() * _SECONDS_PER_CODE).round(2).tolist()
        recordings = {conversation.id: conversation.recording for conversation in self.conversations}
        return Surroundings(self.audio, recordings, dict(zip(ids, seconds, strict=True)))


def evaluation_set(base: Base, settings: DataConfig) -> EvaluationSet:
    """The evaluation set of a base and a data config; that of the last trial while nothing about it has changed."""
    facts = canonical([asdict(settings), asdict(base.settings), base.features, base.accelerator, base.identity])
    return seen_once(("evaluation", facts), lambda: _held_evaluation(base, settings, facts))


def _held_evaluation(base: Base, settings: DataConfig, facts: str) -> EvaluationSet:
    held = _HELD.get(facts)
    if held is None or not held.is_current():
        _HELD.clear()
        held = _HELD[facts] = EvaluationSet(base, settings)
    return held


def require_manifest(option: str, path: str) -> None:
    """Raise a ConfigError unless the option names a file."""
    if not Path(path).is_file():
        rule = "must name a pretokenized manifest" + (", and there is no such file" if path else "")
        remedy = f"Write {option}=FILE.tokens.jsonl, as tokenize wrote it; `make demo` makes the demo's"
        raise ConfigError(option, path, rule, remedy)


def decode(
    base: Base,
    evaluation: EvaluationSet,
    decoding: DecodingConfig,
    seed: int,
    adapter: tuple[str, Path] | None,
    progress: bool = False,
) -> Transcripts:
    """Transcripts of the evaluation set, one per repeat, made now unless the store has them.

    Args:
        adapter: identity and folder of a saved adapter; None decodes the base alone.
    """
    return decode_all(base, evaluation, [Request(decoding, seed)], adapter, progress)[0]


def decode_all(
    base: Base,
    evaluation: EvaluationSet,
    requests: Sequence[Request],
    adapter: tuple[str, Path] | None,
    progress: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Transcripts]:
    """Transcripts under every request, in order; what the store lacks is made together, from one prefill.

    Args:
        adapter: identity and folder of a saved adapter; None decodes the base alone.
        on_progress: is told how much is done and how much there is to do, in utterances times samplings that the
            store lacked.

    The smallest ``batch_size`` asked for is the number of prompts that are computed together.

    Each repeat of each setting is a product of its own, the same whatever it is made together with. Its
    ``decode_seconds`` are an equal part of the time that it and what was made with it took, as they share the prefill
    and most of the steps; so the sum over all is the time spent.
    """
    identity = adapter[0] if adapter else "base"
    smallest = min((request.decoding.batch_size for request in requests), default=1)
    alike = [replace(request, decoding=replace(request.decoding, batch_size=smallest)) for request in requests]
    named = [_products(base, evaluation, request, identity) for request in alike]
    products = {name: product for one in named for name, product in one.items()}
    tell = _Progress(len(evaluation.conversations), sum(store.find("transcript", n) is None for n in products))

    def make(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
        base.about_to_compute()
        started = time.monotonic()
        passes = [products[name].sampling for name in folders]
        found = _transcribe(base, evaluation, passes, adapter, progress, lambda done: tell.more(done, on_progress))
        for folder, answers in zip(folders.values(), found, strict=True):
            write_jsonl(folder / _FILE, [{"id": key, "text": text} for key, text in answers.items()])
        seconds = round((time.monotonic() - started) / len(folders), 3)
        made = {name: products[name] for name in folders}
        return {
            name: {"decode_seconds": seconds, "inputs": p.inputs, "decoding": asdict(p.sampling.decoding)}
            for name, p in made.items()
        }

    folders = find_or_make_all("transcript", list(products), make)
    return [_read([folders[name] for name in one]) for one in named]


def transcript_signatures(base: Base, evaluation: EvaluationSet, request: Request, adapter: str | None) -> list[str]:
    """Names of a request's transcripts in the store, one per repeat, given an adapter's identity."""
    return list(_products(base, evaluation, request, adapter or "base"))


@dataclass(frozen=True)
class _Product:
    """How a transcript is made, and the identities that it depends on."""

    sampling: Pass
    inputs: dict[str, Any]


def _products(base: Base, evaluation: EvaluationSet, request: Request, adapter: str) -> dict[str, _Product]:
    """What a request asks for, by signature, in the order of its repeats."""
    decoding, seed = request.decoding, request.seed
    if is_greedy(decoding):  # nothing is drawn, so these settings change nothing
        decoding, seed = replace(decoding, text_temperature=0.0, text_top_k=0, repeats=1), 0
    groups = {"data": asdict(evaluation.settings), "model": asdict(base.settings), "decoding": asdict(decoding)}
    products = {}
    for repeat in range(decoding.repeats):
        inputs = {"adapter": adapter, "eval": evaluation.identity, "seed": seed, "repeat": repeat, **base_inputs(base)}
        products[signature("transcript", groups, inputs)] = _Product(Pass(decoding, seed, repeat), inputs)
    return products


def _read(folders: Sequence[Path]) -> Transcripts:
    """Stored transcripts, one folder per repeat."""
    hypotheses = [{row["id"]: row["text"] for row in read_jsonl(folder / _FILE)} for folder in folders]
    seconds = sum(store.read_meta(folder)["decode_seconds"] for folder in folders)
    return Transcripts([folder.name for folder in folders], hypotheses, seconds)


class _Progress:
    """Counts what is done of some utterances under some samplings."""

    def __init__(self, utterances: int, samplings: int) -> None:
        self.done, self.total = 0, utterances * samplings

    def more(self, done: int, on_progress: Callable[[int, int], None] | None) -> None:
        """Tell that so many more are done."""
        self.done += done
        if on_progress is not None:
            on_progress(self.done, self.total)


def _transcribe(
    base: Base,
    evaluation: EvaluationSet,
    passes: Sequence[Pass],
    adapter: tuple[str, Path] | None,
    progress: bool,
    on_progress: Callable[[int], None],
) -> list[dict[str, str]]:
    from kimi_audio_ft.data.datamodule import BatchRules, ConversationData

    settings = evaluation.settings
    data = ConversationData(
        settings, base.tokenizer, base.encoders(), base.tokens, BatchRules(1, "sample", 0, progress)
    )
    prompts = data.dataset(evaluation.conversations, settings.eval_manifest, None, for_generation=True)
    visible = progress and sys.stdout.isatty()  # in a file this bar, which vanishes, is an empty line
    with base.saved_adapter(adapter[1] if adapter else None) as model:
        return transcribe(model, prompts, base.tokenizer, passes, base.tokens.first, visible, on_progress)
