"""An evaluation set, and its transcripts under decoding settings: products of the store."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_audio_ft import store
from kimi_audio_ft.base import Base
from kimi_audio_ft.config.canonical import batches_count, decoding_fields, transcript_form
from kimi_audio_ft.config.manifests import EVAL
from kimi_audio_ft.config.prompt import PromptConfig
from kimi_audio_ft.config.train import NATIVE, DataConfig, DecodingConfig, TrainerConfig
from kimi_audio_ft.decoding.request import Answer, Answers, DecodingRequest, batch_size_of
from kimi_audio_ft.decoding.retrieval import RETRIEVAL, most_alike
from kimi_audio_ft.errors import ChangedError, UserError
from kimi_audio_ft.files import append_jsonl, jsonl_line, read_jsonl, write_jsonl
from kimi_audio_ft.manifest.hotwords import read_hotwords, require_room
from kimi_audio_ft.manifest.manifest import reference_identity, require_positions, require_something_to_score
from kimi_audio_ft.manifest.several import Conversations, read_evaluation, require_files
from kimi_audio_ft.paths import PACKAGE
from kimi_audio_ft.runtime.devices import gpu_freed, num_ranks
from kimi_audio_ft.runtime.signals import StopRequest
from kimi_audio_ft.scoring import ScoringOptions
from kimi_audio_ft.scoring.trial_scores import score_repeats, scores_by_set, utterance_rows
from kimi_audio_ft.store.cache import remember
from kimi_audio_ft.store.digests import folder_digest
from kimi_audio_ft.store.make import find_or_make_all
from kimi_audio_ft.store.signature import canonical, digest_of, signature

if TYPE_CHECKING:
    from kimi_audio_ft.data.dataset import Samples

_FILE = "transcripts.jsonl"
# Seconds of decoding that a killed process may lose.
SAVE_EVERY = 10.0
# Semantic codes come at 12.5 Hz.
_SECONDS_PER_CODE = 0.08


@dataclass
class Transcripts:
    """Stored transcripts by their signatures, one per repeat, and the seconds that decoding took in all.

    environment: of the process that decoded the first repeat; None where it was not recorded.
    """

    signatures: list[str]
    seconds: float
    environment: dict[str, Any] | None = None

    @cached_property
    def hypotheses(self) -> Answers:
        """Hypotheses by id, one dict per repeat; read when asked for, since their scores may be known."""
        files = [store.product_path("transcript", name) / _FILE for name in self.signatures]
        return [_answers(read_jsonl(file)) for file in files]


class EvaluationSet:
    """The conversations that are decoded and scored.

    identity: digest of all that decoding sees, prompt included. reference_identity: digest of what is scored; trials
    with the same one may be compared. hotwords: the whole list. first_pass: the set without hot words, whose texts
    choose those of each prompt (``prompt.retrieve``); None: they do not.

    Args:
        prompt: options of the hot words; None: there are none.
    """

    def __init__(self, base: Base, settings: DataConfig, prompt: PromptConfig | None = None) -> None:
        self.base, self.settings, self.prompt = base, settings, prompt
        require_files(EVAL, settings.eval_manifest)
        require_room(prompt, base.tokenizer, base.positions)
        found = read_hotwords(prompt)
        self.hotwords = found.words if found else ()
        self.conversations = read_evaluation(settings, base.tokens, base.tokenizer, prompt)
        for part in self.conversations.parts:
            require_something_to_score(part)
            require_positions(part, base.tokenizer, base.positions)
        self.first_pass: EvaluationSet | None = None
        self.identity = self.conversations.identity()
        if prompt is not None and prompt.retrieves:
            self.first_pass = EvaluationSet(base, settings)
            self.identity = digest_of(
                ["retrieved", RETRIEVAL, self.first_pass.identity, prompt.retrieve, self.hotwords]
            )
        self.reference_identity = self.conversations.identity(reference_identity)

    def scores(self, transcripts: Transcripts, options: ScoringOptions) -> dict[str, Any]:
        """``scores_of_answers`` of transcripts; the store caches them, also for other sweeps."""

        def make() -> dict[str, Any]:
            return scores_of_answers(self.references, transcripts.hypotheses, self.surroundings, options)

        return remember("scores", ["scores", *self._scored(transcripts, options)], make)

    def utterances(self, transcripts: Transcripts, options: ScoringOptions) -> str:
        """Lines of ``utterances.jsonl``: ``rows_of_answers`` of transcripts; cached like the scores."""

        def make() -> str:
            rows = rows_of_answers(self.references, transcripts.hypotheses, self.surroundings, options)
            return "".join(map(jsonl_line, rows))

        return remember("scores", ["utterances", *self._scored(transcripts, options)], make)

    def _scored(self, transcripts: Transcripts, options: ScoringOptions) -> list[Any]:
        return [transcripts.signatures, self._scored_identity, _plain(options), _scoring_code()]

    @cached_property
    def _scored_identity(self) -> str:
        return digest_of([self.reference_identity, self.surroundings])

    def retrieved(self, texts: Mapping[str, str]) -> Conversations:
        """The conversations with the hot words that their first texts, by id, sound most like."""
        assert self.prompt is not None and self.prompt.retrieve is not None, "it retrieves"
        most, words = self.prompt.retrieve, self.hotwords
        found = self.conversations.with_hotwords(
            words, {name: most_alike(words, text, most) for name, text in texts.items()}
        )
        for part in found.parts:
            require_positions(part, self.base.tokenizer, self.base.positions)
        return found

    def dataset(
        self, progress: bool, for_generation: bool = False, conversations: Conversations | None = None
    ) -> Samples:
        """The conversations as samples, their recordings encoded.

        Args:
            for_generation: without the answers.
            conversations: the same with other prompts; None: as they are.
        """
        from kimi_audio_ft.data.datamodule import BatchRules, ConversationData

        base, rules = self.base, BatchRules(1, "sample", 0, progress)
        data = ConversationData(self.settings, base.tokenizer, base.encoders(), base.tokens, rules)
        return data.dataset(conversations or self.conversations, None, for_generation=for_generation)

    def require_unchanged(self, during: str = "while it was being decoded") -> None:
        """Look at manifest, recordings and checkpoint again; ChangedError if they are not what the identity names."""
        now = EvaluationSet(replace(self.base), self.settings, self.prompt)
        if now.base.identities != self.base.identities:
            raise ChangedError(self.base.files.root, during)
        if now.identity != self.identity:
            raise ChangedError(self.conversations.called, during)

    @cached_property
    def references(self) -> dict[str, str]:
        """Reference by id."""
        return {conversation.id: conversation.reference for conversation in self.conversations}

    @cached_property
    def surroundings(self) -> dict[str, dict[str, Any]]:
        """By id: path of the audio (None without one), recording that it was cut from, seconds (of whole codes).

        With start, end and channel of a part of a file, the columns that the manifest has, and of several sets the name
        of its own (``set``).
        """
        seconds = (self.conversations.num_codes() * _SECONDS_PER_CODE).round(2).tolist()
        rows: dict[str, dict[str, Any]] = {}
        for c, length in zip(self.conversations, seconds, strict=True):
            audio, part = (str(c.audio_paths[0]), c.parts[0].fields()) if c.audio_paths else (None, {})
            kept = {"columns": c.columns} if c.columns else {}
            rows[c.id] = {"audio": audio, **part, "recording": c.recording, "seconds": length, **kept}
        for row, name in zip(rows.values(), self.conversations.set_names(), strict=False):
            row["set"] = name
        return rows


@cache
def _plain(options: ScoringOptions) -> dict[str, Any]:
    return asdict(options)


@cache
def _scoring_code() -> str:
    """Digest of the code that scores, with its libraries: what it gives is not kept beyond a change of them."""
    libraries = {name: version(name) for name in ("cn2an", "numpy", "pypinyin", "rapidfuzz", "regex")}
    return digest_of([folder_digest(PACKAGE / "scoring", ("*.py",)), libraries])


def scores_of_answers(
    references: Mapping[str, str],
    answers: Answers,
    surroundings: Mapping[str, Mapping[str, Any]],
    options: ScoringOptions,
) -> dict[str, Any]:
    """``score_repeats`` with the number of cut texts, a mean over the repeats; of several sets also each by itself.

    surroundings: of each utterance, by id, its ``recording`` and of several sets the name of its own (``set``).
    """
    recordings = {key: row["recording"] for key, row in surroundings.items()}
    cut = [sum(answer.is_cut for answer in repeat.values()) for repeat in answers]
    scores = score_repeats(references, answers, recordings, options)
    sets = {key: row["set"] for key, row in surroundings.items() if row.get("set") is not None}
    by_set = {"sets": scores_by_set(sets, references, answers, options)} if sets else {}
    return {**scores, **by_set, "truncated_outputs": cut[0] if len(cut) == 1 else sum(cut) / len(cut)}


def rows_of_answers(
    references: Mapping[str, str],
    answers: Answers,
    surroundings: Mapping[str, Mapping[str, Any]],
    options: ScoringOptions,
) -> list[dict[str, Any]]:
    """``utterance_rows``, of which those with a cut text say so (``truncated``)."""
    rows = utterance_rows(references, answers, surroundings, options)
    for row in rows:
        if answers[row["repeat"]][row["id"]].is_cut:
            row["truncated"] = True
    return rows


def decode(
    evaluation: EvaluationSet,
    decoding: DecodingConfig,
    seed: int,
    adapter: tuple[str, Path] | None,
    trainer: TrainerConfig | None = None,
) -> Transcripts:
    """Transcripts of the evaluation set under one setting; see ``decode_all``. Signals that ask to stop are heard."""
    progress, requests = trainer is not None and trainer.progress, [DecodingRequest(decoding, seed)]
    with StopRequest() as stop:
        return decode_all(evaluation, requests, adapter, progress, should_stop=stop, trainer=trainer)[0]


def decode_all(
    evaluation: EvaluationSet,
    requests: Sequence[DecodingRequest],
    adapter: tuple[str, Path] | None,
    progress: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    trainer: TrainerConfig | None = None,
) -> list[Transcripts]:
    """Transcripts under every request and its repeats, in order; those that the store lacks share one prefill.

    Args:
        adapter: signature and folder of a saved adapter; None decodes the base alone.
        on_progress: called with the number of decoded utterances and their total, of those that are decoded together;
            several groups report one after the other.
        should_stop: asked after every batch.
        trainer: its devices share the work (``shares.py``); None: it is done here.

    Prompts are computed in batches of the smallest ``batch_size`` asked for; in bf16, where it can change an answer,
    in batches of each, one after the other; what vLLM decodes comes after the rest. Each repeat of each setting is a
    product of its own, independent of the others. Its ``decode_seconds`` are an equal part of the common time, as they
    share the prefill and most steps; so their sum is the time spent, by interrupted calls too.

    Raises:
        Interrupted: on ``should_stop``; as after any other end, decoded batches are kept for the next call.
    """
    ways = [_way(request.setting, evaluation.base) for request in requests]
    if len(set(ways)) > 1:
        options = (adapter, progress, on_progress, should_stop, trainer)
        parts = {way: [one for one, own in zip(requests, ways, strict=True) if own == way] for way in sorted(set(ways))}
        found = {way: iter(decode_all(evaluation, part, *options)) for way, part in parts.items()}
        return [next(found[way]) for way in ways]
    made_by = adapter[0] if adapter else None
    together = batch_size_of(requests)
    alike = [replace(request, setting=replace(request.setting, batch_size=together)) for request in requests]
    named = [_by_signature(evaluation, request, made_by) for request in alike]
    requested = {name: repeat for one in named for name, repeat in one.items()}
    total = len(evaluation.conversations) * sum(store.find("transcript", name) is None for name in requested)
    done = 0

    def prompts() -> Conversations:
        if evaluation.first_pass is None:
            return evaluation.conversations
        first = [DecodingRequest.first_pass(alike[0].setting)]
        [texts] = decode_all(evaluation.first_pass, first, adapter, progress, None, should_stop, trainer)
        return evaluation.retrieved(texts.hypotheses[0])

    def make(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
        asked = prompts()  # not before: what was there may have gone by now, and the others look at references
        evaluation.base.about_to_compute()
        started, missing = time.monotonic(), {name: requested[name] for name in folders}
        unfinished = UnfinishedTranscripts(list(folders), evaluation)
        nonlocal done
        done += sum(map(len, unfinished.known))

        def on_batch(new: Answers) -> None:
            nonlocal done
            unfinished.add(new)
            done += sum(map(len, new))
            if on_progress is not None:
                on_progress(done, total)

        try:
            found, facts = _transcribe(
                evaluation,
                asked,
                list(missing.values()),
                adapter,
                progress,
                on_batch,
                unfinished.known,
                should_stop,
                trainer,
            )
            evaluation.require_unchanged()
        except BaseException:
            unfinished.save()
            raise
        for folder, answers in zip(folders.values(), found, strict=True):
            write_jsonl(folder / _FILE, [_row(key, answer) for key, answer in answers.items()])
        seconds = (time.monotonic() - started) / len(folders)
        return {
            name: {
                "decode_seconds": round(seconds + before, 3),
                "environment": facts,
                "inputs": _inputs(evaluation, request, made_by),
                "decoding": decoding_fields(request.setting),
            }
            for (name, request), before in zip(missing.items(), unfinished.seconds, strict=True)
        }

    find_or_make_all("transcript", list(requested), make)
    return [_read(list(one)) for one in named]


def _way(setting: DecodingConfig, base: Base) -> tuple[str, str]:
    """Equal for settings that are decoded together: by one engine, in batches that change nothing, or are the same."""
    if setting.engine == NATIVE:
        return "", str(setting.batch_size) if batches_count(base.settings) else ""
    return canonical(asdict(setting.vllm)), ""


class UnfinishedTranscripts:
    """Hypotheses of transcripts that are being made: what was decoded before an interruption is not decoded again.

    known: by id, one dict per transcript. seconds: that they took, of each transcript.
    """

    def __init__(self, signatures: Sequence[str], evaluation: EvaluationSet) -> None:
        self._evaluation = evaluation
        self._files = [store.work_folder("transcript", name) / _FILE for name in signatures]
        saved = [_whole_lines(file) for file in self._files]
        self.known: Answers = [_answers(rows) for rows in saved]
        self.seconds = [sum(row.get("seconds", 0.0) for row in rows) for rows in saved]
        self._new: Answers = [{} for _ in signatures]
        self._saved = time.monotonic()

    def add(self, new: Answers) -> None:
        """Take in a batch; it is on disk some seconds later."""
        for found, some in zip(self._new, new, strict=True):
            found.update(some)
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what is new; a disk that is full costs no more than this.

        Nothing is kept when files have changed: nobody knows which of them the hypotheses are of.
        """
        try:
            self._evaluation.require_unchanged()
        except UserError:
            for file in self._files:
                shutil.rmtree(file.parent, ignore_errors=True)
            return
        now = time.monotonic()
        each = {"seconds": (now - self._saved) / max(1, sum(map(len, self._new)))}
        for file, found in zip(self._files, self._new, strict=True):
            with suppress(OSError):
                append_jsonl(file, [_row(key, answer) | each for key, answer in found.items()])
            found.clear()
        self._saved = now


def _row(key: str, answer: Answer) -> dict[str, Any]:
    return {"id": key, "text": str(answer), **({"cut": True} if answer.is_cut else {})}


def _answers(rows: Iterable[Mapping[str, Any]]) -> dict[str, Answer]:
    return {row["id"]: Answer(row["text"], row.get("cut", False)) for row in rows}


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """Rows of a file that may be absent, without the half lines of killed processes."""
    rows = []
    with suppress(OSError), file.open("rb") as lines:
        for line in lines:
            with suppress(ValueError):
                rows.append(json.loads(line))
    return rows


def stored_transcripts(signatures: Sequence[str]) -> Transcripts | None:
    """Transcripts of these signatures, one per repeat; None unless the store has all of them."""
    there = all(store.find("transcript", name) is not None for name in signatures)
    return _read(signatures) if there else None


def transcript_signatures(evaluation: EvaluationSet, request: DecodingRequest, adapter: str | None) -> list[str]:
    """Signatures of a request's transcripts, one per repeat, given an adapter's signature."""
    return list(_by_signature(evaluation, request, adapter))


def _by_signature(
    evaluation: EvaluationSet, request: DecodingRequest, adapter: str | None
) -> dict[str, DecodingRequest]:
    """The request's repeats by the signatures of their transcripts."""
    repeats = request.repeats(vocabulary=evaluation.base.tokens.end)
    form = transcript_form(evaluation.settings, evaluation.base.settings, repeats[0].setting)
    return {signature("transcript", form, _inputs(evaluation, one, adapter)): one for one in repeats}


def _inputs(evaluation: EvaluationSet, request: DecodingRequest, adapter: str | None) -> dict[str, Any]:
    """Identities and seeds that a transcript depends on."""
    drawn = {"seed": request.seed, "repeat": request.repeat}
    return {"adapter": adapter or "base", "eval": evaluation.identity, **drawn, **evaluation.base.identities}


def _read(signatures: Sequence[str]) -> Transcripts:
    """Stored transcripts, one signature per repeat."""
    metas = [store.read_meta(store.product_path("transcript", name)) for name in signatures]
    seconds = sum(meta["decode_seconds"] for meta in metas)
    return Transcripts(list(signatures), seconds, metas[0].get("environment"))


@gpu_freed()
def _transcribe(
    evaluation: EvaluationSet,
    asked: Conversations,
    requests: Sequence[DecodingRequest],
    adapter: tuple[str, Path] | None,
    progress: bool,
    on_batch: Callable[[Answers], None],
    known: Answers,
    should_stop: Callable[[], bool] | None,
    trainer: TrainerConfig | None,
) -> tuple[Answers, dict[str, Any]]:
    """Hypotheses, and the environment that they were made in."""
    from kimi_audio_ft.decoding.shares import Work, decode_shared

    prompts = evaluation.dataset(progress, for_generation=True, conversations=asked)
    visible = progress and sys.stdout.isatty()  # in a file this bar, which vanishes, is an empty line
    work = Work(evaluation.base, adapter[1] if adapter else None, prompts, requests, visible)
    devices = num_ranks(trainer) if trainer is not None else 1
    return decode_shared(work, known, devices, on_batch, should_stop or (lambda: False))
