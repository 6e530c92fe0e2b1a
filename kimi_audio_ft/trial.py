"""One trial: fit an adapter (or reuse it), decode, score. Every step is a product of the store."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_audio_ft import store
from kimi_audio_ft.base import Base
from kimi_audio_ft.config.canonical import adapter_form
from kimi_audio_ft.config.manifests import manifest_paths
from kimi_audio_ft.config.train import RATES, SHARDED, VLLM, ScoringConfig, TrainConfig
from kimi_audio_ft.decoding.kept import vllm_kept
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcripts import (
    EvaluationSet,
    decode,
    stored_transcripts,
    transcript_signatures,
)
from kimi_audio_ft.decoding.vllm_process import require_vllm
from kimi_audio_ft.errors import ChangedError
from kimi_audio_ft.files import read_jsonl, write_json, write_jsonl, write_text
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.lora.targets import require_decoder_only
from kimi_audio_ft.manifest.hotwords import hotwords_facts
from kimi_audio_ft.manifest.prompts import prompt_facts, training_prompt
from kimi_audio_ft.outcomes import BASE, Outcomes
from kimi_audio_ft.runtime.devices import in_workers, num_ranks, refuse_launchers, share_threads
from kimi_audio_ft.runtime.environment import git_commit
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.runtime.signals import Interrupted, StopRequest
from kimi_audio_ft.runtime.workers import Send, WorkerDied, run_workers
from kimi_audio_ft.scoring import read_options
from kimi_audio_ft.scoring.ranking import rate_of
from kimi_audio_ft.store.signature import signature
from kimi_audio_ft.store.usage import note
from kimi_audio_ft.sweep_folder import BASE_UTTERANCES, UTTERANCES
from kimi_audio_ft.tracking import make_tracker, metrics_of
from kimi_audio_ft.training.ending import TrainingFailed

if TYPE_CHECKING:
    from kimi_audio_ft.data.datamodule import ConversationData
    from kimi_audio_ft.decoding.transcripts import Transcripts
    from kimi_audio_ft.manifest.overlap import Overlap
    from kimi_audio_ft.scoring import ScoringOptions
    from kimi_audio_ft.scoring.trial_scores import TrialFacts
    from kimi_audio_ft.tracking import Tracker

log = logging.getLogger(__name__)

# Facts about an adapter that scores.json repeats.
_TRAINED = (
    *("trainable_parameters", "train_seconds", "final_train_loss", "final_val_loss", "steps", "train_conversations"),
)


def run(config: TrainConfig, folder: Path, facts: TrialFacts, group: str | None) -> float:
    """Fit or reuse, decode, score and record one trial, as its launch has planned it if one did; returns its rate."""
    refuse_launchers()
    folder.mkdir(parents=True, exist_ok=True)
    quiet_libraries()
    given = _planned(config)
    tracker = given.tracker if given is not None else None
    if tracker is None:
        name = facts.name if given is None else given.name or facts.name
        tracker = make_tracker(config.logger, trial_name=name, group=group, config=asdict(config), folder=folder)
    try:
        with vllm_kept(config.lora.r):
            return _fit_decode_score(given or Trial(config), folder, facts, tracker)
    except Exception as error:
        tracker.fail(f"{type(error).__name__}: {error}")
        raise
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        tracker.fail("interrupted")
        raise KeyboardInterrupt from None


def _fit_decode_score(trial: Trial, folder: Path, facts: TrialFacts, tracker: Tracker) -> float:
    (folder / "failure.json").unlink(missing_ok=True)
    config, base = trial.config, trial.base
    options = read_options(config.scoring)
    evaluation, overlap = trial.evaluation, trial.overlap

    adapter = _fit(trial, folder, tracker)
    log.info("%s: adapter %s %s", facts.name, adapter.signature, "reused" if adapter.reused else "fitted")
    about = {"params": facts.params, "command": facts.command, **ranked_by(config.scoring)}

    transcripts = trial.transcripts(adapter)
    trained = {key: adapter.facts[key] for key in _TRAINED} | {"train_reused": adapter.reused}
    trained["environment"] = {"training": adapter.facts.get("environment")}
    trained["train_identity"] = trial.inputs.training_set(config).identity  # what it has seen, if the manifest changes
    trained |= overlap.facts
    named = {name: getattr(config.data, name) for name in ("test_manifest", "guard_manifests")}
    trained |= {name: value for name, value in named.items() if value}  # for the sweep's end
    scores = scores_of(base, evaluation, transcripts, options, facts.name, adapter.signature, about | trained)
    utterances = write_utterances(folder, evaluation.utterances(transcripts, options))

    rank_by, beside = config.scoring.rank_by, ""
    if config.baseline:
        transcripts = trial.transcripts(None)
        untrained = about | dict.fromkeys(_TRAINED)
        alone = scores_of(base, evaluation, transcripts, options, "base (no adapter)", "base", untrained)
        write_utterances(folder, evaluation.utterances(transcripts, options), name=BASE_UTTERANCES)
        write_json(folder / "baseline.json", alone)
        beside = f" (base alone {100 * ranking_rate(alone, rank_by):.2f} %)"
    else:
        for name in ("baseline.json", BASE_UTTERANCES):
            (folder / name).unlink(missing_ok=True)

    write_json(folder / "scores.json", scores)
    record(tracker, {key: value for key, value in scores.items() if key not in about}, utterances)
    rate = ranking_rate(scores, rank_by)
    log.info("%s: %s %.2f %%%s; scores and transcripts in %s", facts.name, RATES[rank_by], 100 * rate, beside, folder)
    return rate


def _fit(trial: Trial, folder: Path, tracker: Tracker) -> Adapter:
    """The trial's adapter; its curves go to the tracker and into the folder."""
    rows: list[dict[str, Any]] = []

    def on_row(row: dict[str, Any]) -> None:
        rows.append(row)
        tracker.log(metrics_of(row), row["step"])

    adapter = trial.adapter(on_row)
    tracker.keep_adapter(adapter.folder, adapter.signature)
    write_jsonl(folder / "curves.jsonl", rows)
    return adapter


def ranked_by(scoring: ScoringConfig) -> dict[str, Any]:
    """What scores.json says of the rate that ranks; nothing of the CER, as before there was a choice."""
    return {} if scoring.rank_by == ScoringConfig.rank_by else {"rank_by": scoring.rank_by}


def ranking_rate(scores: dict[str, Any], rank_by: str) -> float:
    """The rate that ranks, out of the content of ``scores.json``."""
    rate = rate_of(scores, rank_by)
    assert rate is not None, f"scores without {rank_by}"
    return float(rate)


def scores_of(
    base: Base,
    evaluation: EvaluationSet,
    transcripts: Transcripts,
    options: ScoringOptions,
    name: str,
    adapter: str,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Content of ``scores.json``: of an adapter's transcripts by its signature, or of the base's."""
    scores = evaluation.scores(transcripts, options)
    if scores["truncated_outputs"]:
        log.warning(
            "%s: %g of %d answers were cut off by decoding.max_new_tokens; what they lack counts as deleted",
            name, scores["truncated_outputs"], scores["num_references"],
        )  # fmt: skip
    return {
        "trial": name,
        **scores,
        "signature": adapter,
        "transcript_signatures": transcripts.signatures,
        **about,
        "decode_seconds": transcripts.seconds,
        "environment": {**about.get("environment", {}), "decoding": transcripts.environment},
        "eval_manifest": evaluation.settings.eval_manifest,
        "eval_identity": evaluation.reference_identity,
        **hotwords_facts(evaluation.hotwords),
        "git_commit": git_commit(),
        "model": base.settings.path,
    }


def write_utterances(
    folder: Path, lines: str, more: Mapping[str, Mapping[str, Any]] | None = None, name: str = UTTERANCES
) -> Path:
    """Write a trial's utterances, with more fields of every one, by its id, if given; returns the file."""
    path = folder / name
    if more is None:
        write_text(path, lines)
    else:
        rows = [json.loads(line) for line in lines.split("\n") if line]
        write_jsonl(path, [{**row, **more[row["id"]]} for row in rows])
    return path


def record(tracker: Tracker, summary: dict[str, Any], utterances: Path) -> None:
    """Give the tracker the final scores and, if it shows them, the utterances."""
    tracker.finish(summary, read_jsonl(utterances) if tracker.shows_utterances else [])


@dataclass
class Adapter:
    """A stored adapter. reused: it was in the store before this trial, and its sweep did not make it for this trial."""

    signature: str
    folder: Path
    facts: dict[str, Any]
    reused: bool


@dataclass(frozen=True)
class TrialPlan:
    """Names of all that a trial makes, derived once from its config and the files that it reads.

    adapter: training signature. evaluation: identity of the evaluation set. transcripts, base_transcripts: signatures,
    one per repeat, of the adapter's and of the base's alone (none without ``baseline``).
    """

    adapter: str
    evaluation: str
    transcripts: tuple[str, ...]
    base_transcripts: tuple[str, ...]


class Trial:
    """One point of a sweep, from its config.

    rank: of this process among those that train the adapter. inputs: shared by the trials of a launch; a trial by
    itself has its own. outcomes: of the launch; it trains nothing that has failed there. name: among its siblings, in a
    launch. tracker: its record, where that was opened while its adapter trained.
    """

    name: str | None = None
    tracker: Tracker | None = None

    def __init__(self, config: TrainConfig, rank: int = 0, inputs: Inputs | None = None) -> None:
        self.config, self.rank = config, rank
        self.inputs = inputs or Inputs()
        self.outcomes = Outcomes()
        self.base = self.inputs.base(config)
        self._whole = "trial" if inputs is None else "sweep"

    @cached_property
    def evaluation(self) -> EvaluationSet:
        """The evaluation set."""
        return self.inputs.evaluation(self.config)

    @cached_property
    def overlap(self) -> Overlap:
        """What it trains on as well as evaluates.

        Raises:
            DataError: recordings, and the config does not allow it; or it uses what is kept for the sweep's end.
        """
        found = self.inputs.overlap(self.config)
        self.inputs.require_unseen(self.config)
        return found

    @cached_property
    def plan(self) -> TrialPlan:
        """Names of all that it makes.

        Raises:
            DataError: as of ``overlap``. ConfigError: vLLM is to decode, and is not there or cannot apply the adapter.
        """
        config, adapter, evaluation = self.config, self.training_signature, self.evaluation
        if config.decoding.engine == VLLM:
            require_decoder_only(self.base.targets(config.lora), config.lora.target_modules)
        _ = self.overlap  # before anything is made
        request = DecodingRequest(config.decoding, config.seed)

        def names(decoded: str | None) -> tuple[str, ...]:
            return tuple(transcript_signatures(evaluation, request, decoded))

        plan = TrialPlan(adapter, evaluation.identity, names(adapter), names(None) if config.baseline else ())
        if config.decoding.engine == VLLM and stored_transcripts([*plan.transcripts, *plan.base_transcripts]) is None:
            require_vllm(config.decoding)
        return plan

    @contextmanager
    def given_to_job(self) -> Iterator[None]:
        """Let the job that runs inside take this trial: Hydra's run_job hands a job nothing but its config."""
        token = _PLANNED.set(self)
        try:
            yield
        finally:
            _PLANNED.reset(token)

    def require_unchanged(
        self, adapter: str | None = None, evaluation: str | None = None, inputs: Inputs | None = None
    ) -> None:
        """Look at the inputs anew and compare them with the plan.

        Args:
            adapter: planned training signature; None: this trial's own, and so for ``evaluation``.
            inputs: new ones that several trials are compared with at the same time.

        Raises:
            ChangedError: a manifest, recording or file of the checkpoint has changed since it was planned.
        """
        now, during = Trial(self.config, inputs=inputs), f"while the {self._whole} ran"
        if now.training_signature != (adapter or self.training_signature):
            same_base = now.base.identities == self.base.identities
            trained_on = ", ".join(manifest_paths(self.config.data.train_manifest))
            raise ChangedError(trained_on if same_base else self.base.files.root, during)
        if now.evaluation.identity != (evaluation or self.evaluation.identity):
            raise ChangedError(now.evaluation.conversations.called, during)

    @cached_property
    def data(self) -> ConversationData:
        """Training and validation batches."""
        from kimi_audio_ft.data.datamodule import BatchRules, ConversationData

        config = self.config
        rules = BatchRules(
            config.trainer.accumulate,
            config.optim.loss_average,
            config.seed,
            config.trainer.progress,
            rank=self.rank,
            ranks=num_ranks(config.trainer),
        )
        return ConversationData(
            config.data, self.base.tokenizer, self.base.encoders(), self.base.tokens, rules, config.prompt
        )

    @cached_property
    def training_signature(self) -> str:
        """Signature of the adapter: a digest of everything that its weights depend on."""
        config, trained = self.config, self.inputs.training_set(self.config)
        form = adapter_form(config, trained, self.base.reached(config.lora), num_ranks(config.trainer))
        inputs = {"train": trained.identity, **self.base.identities, **self.inputs.sounds(config)}
        return signature("adapter", form, inputs)

    def fit(
        self,
        folder: Path,
        work: Path,
        on_row: Callable[[dict[str, Any]], None] | None,
        should_stop: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """Train the adapter in this process (one of several, under a strategy of several ranks).

        Raises:
            TrainingFailed: the loss was not finite.
            Interrupted: ``should_stop`` said so; there is a checkpoint of that step.
        """
        from kimi_audio_ft.lora.adapter import ONE
        from kimi_audio_ft.training.adapters import AdapterSpec
        from kimi_audio_ft.training.fit import fit_adapters

        config = self.config
        spec = AdapterSpec(ONE, config.lora, config.optim, config.seed, folder, work)
        row = None if on_row is None else lambda name, row: on_row(row)
        result = fit_adapters(self.base, [spec], self.data, config.trainer, on_row=row, should_stop=should_stop)[ONE]
        if isinstance(result, TrainingFailed):
            raise result
        return result

    def adapter(self, on_row: Callable[[dict[str, Any]], None] | None = None) -> Adapter:
        """The adapter, fitted now unless the store has it; ``on_row`` gets the points of its curves."""
        config, name = self.config, self.training_signature
        note([("adapter", name)])
        self.base.targets(config.lora)
        self.outcomes.raise_if_failed(name)
        folder, stored = store.find_or_make("adapter", name, lambda folder: self._make(folder, on_row))
        reused = stored and not self.outcomes.take_fitted(name)
        trained_on = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        facts = {**store.read_meta(folder), "train_conversations": trained_on["conversations"]}
        # An adapter does not depend on the evaluation set; its validation losses do.
        same_eval = facts["eval_identity"] == self.evaluation.identity
        if not same_eval:
            facts["final_val_loss"] = None
        if stored and on_row is not None:
            for row in read_jsonl(folder / "curves.jsonl"):
                if same_eval or row["split"] != "val":
                    on_row(row)
        return Adapter(name, folder, facts, reused)

    def _make(self, folder: Path, on_row: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
        self.base.about_to_compute()
        work = store.work_folder("adapter", self.training_signature)
        if in_workers(self.config.trainer):
            facts = fit_in_workers(self, folder, work, on_row)
        else:
            with StopRequest() as stop:
                self.set_up()
                facts = self.fit(folder, work, on_row, stop)
        try:
            self.require_unchanged()
        except ChangedError:
            shutil.rmtree(work, ignore_errors=True)  # of its checkpoints nobody knows what they were trained on
            raise
        return self.adapter_facts(facts)

    def adapter_facts(self, training: Mapping[str, Any]) -> dict[str, Any]:
        """Facts of the adapter for its ``product.json``: those of its training, and what it was made from."""
        data = self.config.data
        return {
            **training,
            "config": asdict(self.config),
            "eval_identity": self.evaluation.identity,
            "base": self.base.identity,
            **prompt_facts(training_prompt(data.prompt, data.train_manifest)),
        }

    def set_up(self) -> None:
        """Read, check and encode the data, which must be those that were planned.

        What is read later is compared with what was read here: a manifest by its state (``Manifest``), the recordings
        of ``data.features=online`` by their digests (``ConversationDataset``), a checkpoint's weights by the identity
        (``Base.load``). So checkpoints of a training that is killed hold nothing of data edited meanwhile.
        """
        self.data.setup()
        self.require_unchanged()

    def transcripts(self, adapter: Adapter | None) -> Transcripts:
        """The planned transcripts by the adapter, or by the base alone: those of the store, or decoded now."""
        if adapter is None:
            self.outcomes.raise_if_failed(BASE)
        stored = stored_transcripts(self.plan.transcripts if adapter else self.plan.base_transcripts)
        if stored is not None:
            return stored
        config, used = self.config, (adapter.signature, adapter.folder) if adapter else None
        return decode(self.evaluation, config.decoding, config.seed, used, config.trainer)


# The trial that a launch has planned for the job that it now runs.
_PLANNED: ContextVar[Trial | None] = ContextVar("_PLANNED", default=None)


def _planned(config: TrainConfig) -> Trial | None:
    """The trial that a launch gave to this job, if one did."""
    trial = _PLANNED.get()
    return trial if trial is not None and trial.config == config else None


def fit_in_workers(
    trial: Trial, folder: Path, work: Path, on_row: Callable[[dict[str, Any]], None] | None
) -> dict[str, Any]:
    """``Trial.fit`` in one process per device of the trainer; arguments and result are the same."""
    if trial.config.trainer.strategy in SHARDED:
        trial.base.require_one_gpu_holds_it(trial.config.trainer.strategy)
    trial.set_up()  # once, not in every process
    trial.base.release()
    facts: dict[str, Any] = {}

    def on_message(rank: int, message: dict[str, Any]) -> None:
        if "row" not in message:
            facts.update(message)
        elif on_row is not None:
            on_row(message["row"])

    count, planned = num_ranks(trial.config.trainer), (trial.training_signature, trial.evaluation.identity)
    with StopRequest() as stop:
        try:
            run_workers(_fit_rank, (trial.config, planned, folder, work), count, on_message, should_stop=stop)
        except WorkerDied:
            if stop():  # before the worker could listen
                raise KeyboardInterrupt from None
            raise
    if "interrupted" in facts:
        raise Interrupted(facts["interrupted"])
    return facts


def _fit_rank(rank: int, send: Send, config: TrainConfig, planned: tuple[str, str], folder: Path, work: Path) -> None:
    share_threads(config.trainer.threads, num_ranks(config.trainer))
    quiet_libraries()
    first = rank == 0
    logging.basicConfig(format="%(message)s", level=logging.WARNING if first else logging.ERROR)
    logging.getLogger("kimi_audio_ft.training").setLevel(logging.INFO if first else logging.ERROR)
    logging.getLogger("kimi_audio_ft.data").setLevel(logging.ERROR)  # the parent has said it
    config.trainer.progress = config.trainer.progress and first
    trial = Trial(config, rank)
    trial.base.sharded = config.trainer.strategy in SHARDED
    trial.data.setup()
    trial.require_unchanged(*planned)
    try:
        with StopRequest() as stop:
            facts = trial.fit(folder, work, (lambda row: send({"row": row})) if first else None, stop)
    except Interrupted as interrupted:
        facts = {"interrupted": interrupted.step}
    if first:
        send(facts)
