"""Combinations of a sweep's trials, each with the files of a trial, and compared with the best of those combined.

- Samples of one trial, and texts of several trials: by minimum Bayes risk, from what the sweep has decoded.
- Adapters of several trials: their mean, with which the evaluation set is decoded.

They are made and chosen on the evaluation set; the chosen one is then decoded on the sweep's test set. What the store
lacks is decoded by the sweep's launcher, or another executor (``executor``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, chdir, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kimi_audio_ft.base import base_facts
from kimi_audio_ft.combine.sources import TEMPERATURE, Source, adapter_of, chosen_trials, texts_of
from kimi_audio_ft.config.canonical import is_greedy
from kimi_audio_ft.config.checks import require
from kimi_audio_ft.config.commands import CombineConfig
from kimi_audio_ft.config.train import VLLM, VLLM_MOST_RANK
from kimi_audio_ft.decoding.request import Answers
from kimi_audio_ft.decoding.transcripts import rows_of_answers, scores_of_answers
from kimi_audio_ft.errors import ConfigError, DataError, UserError
from kimi_audio_ft.files import write_json, write_jsonl
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.lora.average import mean_of_adapters
from kimi_audio_ft.manifest.prompts import copied_facts
from kimi_audio_ft.merging.folder import drafted, is_made
from kimi_audio_ft.paths import expanded
from kimi_audio_ft.scoring import read_options
from kimi_audio_ft.scoring.consensus import vote
from kimi_audio_ft.store.looks import look
from kimi_audio_ft.store.make import META
from kimi_audio_ft.store.usage import using
from kimi_audio_ft.sweep.confirm.decoding import Asked, decode_missing
from kimi_audio_ft.sweep.confirm.unseen import record_looks
from kimi_audio_ft.sweep.plan import started_in, written_config
from kimi_audio_ft.sweep_folder import COMBINATIONS, COMBINATIONS_RECORD, UTTERANCES, claim
from multirun_analysis.analysis import Analysis, load_sweep
from multirun_analysis.report.combined import (
    MADE_OF,
    SCORES,
    VERSION,
    Combinations,
    Tested,
    facts_of,
    read_combinations,
)
from multirun_analysis.report.stored_combinations import MOST, chosen_of, compared, facts_of_vote, sampled_trials, votes
from multirun_analysis.sweep import Trial, read_scored

_RECORD = Path(COMBINATIONS_RECORD).name
# Fields of an utterance that depend on what was heard; the others are about the recording.
_HEARD = (
    *("id", "repeat", "reference", "hypothesis", "cer", "edits", "chars", "normalised_edits", "normalised_chars"),
    *("categories", "truncated"),
)


@dataclass(frozen=True)
class Combination:
    """What is combined, and how. facts: fields of ``Combined``. sources: the best first; one alone is taken as it is,
    unless it votes."""

    facts: dict[str, Any]
    sources: tuple[Source, ...]
    votes: bool = True

    @property
    def name(self) -> str:
        return str(self.facts["name"])

    def texts(self, heard: Sequence[Answers]) -> Answers:
        """Texts by id, one dict per repeat, from those of each source; every source has the same weight."""
        return [vote(heard, str)] if self.votes else list(heard[0])


def combine(config: CombineConfig) -> Combinations:
    """Make all combinations of the chosen trials; returns the results.

    The folder replaces that of the same call. Nothing is decoded twice: what is decoded is kept in the store.

    Raises:
        UserError: the sweep cannot be read, there is nothing to combine, an adapter is not in the store any more, or
            the folder holds something else, or other combinations and not ``overwrite``.
    """
    sweep = expanded(config.sweep).resolve()
    analysis = load_sweep(sweep)
    voters = chosen_trials(analysis, config)
    sampled = voters if config.trials else sampled_trials(analysis, config.most or MOST)
    trials = sorted(dict.fromkeys([*voters, *sampled]), key=lambda trial: trial.rate)
    heard = texts_of(trials)
    out = expanded(config.out).resolve() if config.out else sweep / COMBINATIONS
    facts = _facts(trials, config)

    def is_done() -> bool:
        is_made(out, _RECORD, facts, config.overwrite, "set of combinations", key=MADE_OF)
        return False  # the sweep's choice may be tested by now

    with chdir(started_in(trials[0].folder)), _claimed(sweep), using(sweep), drafted(out, is_done) as draft:
        assert draft is not None, "it is made again in any case"
        made = [Combination(about, tuple(map(Source, some))) for about, some in votes(sampled, voters, heard)]
        made += [*_of_new_samples(voters[0], config), *_of_adapters(voters, config, draft)]
        if not made:
            raise UserError(
                f"{sweep}: has nothing to combine: fewer than three texts of an utterance, and no two adapters "
                "that may be the best. Sample the best trial (samples=16), train it with several seeds "
                "(seed=1,2,3,4), or name trials (trials=[0,3])"
            )
        best = trials[0]
        texts = _texts(made, heard, analysis, draft, config.executor)
        for one in made:
            _write(draft / one.name, best.utterances, one, texts[one.name], best)
        rows = compared(best, [(one.facts, _scored(draft / one.name, best)) for one in made])
        chosen = chosen_of(rows)
        of_chosen = [one for one in made if chosen is not None and one.name == chosen.name]
        tested = confirmed(analysis, of_chosen[0], draft, config.executor) if of_chosen else None
        record = {
            MADE_OF: facts,
            "best": {"trial": best.name, "rate": best.rate},
            "chosen": chosen and chosen.name,
            "combinations": [asdict(row) for row in rows],
            "test": tested and asdict(tested),
        }
        write_json(draft / _RECORD, record)
    return read_combinations(out)


def _texts(
    made: Sequence[Combination], heard: Mapping[Trial, Answers], analysis: Analysis, folder: Path, executor: str | None
) -> dict[str, Answers]:
    """Texts of every combination by its name; what the sweep has not decoded is decoded now, all of it together.

    heard: what it has decoded.
    """
    inputs = Inputs()
    new = {source: source.asked(inputs) for one in made for source in one.sources if not source.is_decoded}
    found = dict(zip(new, _decoded(list(new.values()), analysis, folder, executor), strict=True))
    every = {source: found[source] if source in new else heard[source.trial] for one in made for source in one.sources}
    return {one.name: one.texts([every[source] for source in one.sources]) for one in made}


def _decoded(asked: Sequence[Asked], analysis: Analysis, folder: Path, executor: str | None) -> list[Answers]:
    """Texts by id, one dict per repeat, of each.

    Its tasks and their log lie in the sweep's folder, as those of the sweep, or in another one if that is not ours.
    """
    sweep = analysis.sweep.folder
    place = sweep if _is_ours(sweep) else folder
    decode_missing(sweep, place, asked, "decoding for combinations", executor=executor)
    return [one.found().hypotheses for one in asked]


def _is_ours(sweep: Path) -> bool:
    return os.access(sweep, os.W_OK)


def _claimed(sweep: Path) -> AbstractContextManager[object]:
    """A claim to the sweep's folder if it is writable, as we then write there; BeingRun: another process has it."""
    return claim(sweep) if _is_ours(sweep) else nullcontext()


def _facts(trials: Sequence[Trial], config: CombineConfig) -> dict[str, Any]:
    """All that the combinations depend on, beside the test set."""
    return {
        "version": VERSION,
        "rank_by": trials[0].rank_by,
        "trials": {trial.name: facts_of(trial) for trial in trials},
        "samples": config.samples,
        "temperature": config.temperature or TEMPERATURE,
        "mean": config.mean,
        "rank": config.rank,
    }


def _of_new_samples(best: Trial, config: CombineConfig) -> Iterator[Combination]:
    """As many as ``samples`` by the adapter of the best trial."""
    if config.samples is None:
        return
    temperature = config.temperature or TEMPERATURE
    source = Source(best, temperature, config.samples)
    if is_greedy(source.config.decoding):
        rule = f"trial {best.name} decodes with decoding.text_top_k=1, of which all samples are the same"
        raise ConfigError("samples", config.samples, rule, "Name other trials, or set samples=null")
    facts = facts_of_vote("samples", f"samples-{best.name}-at-{temperature:g}", [best], config.samples)
    yield Combination({**facts, "temperature": temperature}, (source,))


def _of_adapters(trials: Sequence[Trial], config: CombineConfig, folder: Path) -> Iterator[Combination]:
    """The mean of the trials' adapters, which decodes as the best trial does."""
    by_adapter: dict[str, Trial] = {}
    for trial in trials:
        by_adapter.setdefault(str(trial.record.get("signature")), trial)
    used = list(by_adapter.values())
    if not config.mean:
        return
    if len(used) < 2:
        rule, remedy = "is that of a mean of adapters, and these trials have one adapter", "Name others (trials=[...])"
        require(config.rank is None, "rank", config.rank, rule, remedy)
        return
    folders = [adapter_of(trial) for trial in used]
    facts = base_facts(folders[0])
    for trial, place in zip(used, folders, strict=True):
        if base_facts(place) != facts:
            problem = f"its adapter is of another base than that of trial {used[0].name}"
            raise DataError(trial.folder, problem, "Name trials of one base (trials=[...]), or set mean=false")
    mean, own = mean_of_adapters(folders, rank=config.rank), folder / "mean" / "adapter"
    by_vllm = written_config(trials[0].folder).decoding.engine == VLLM
    rule = f"the mean has rank {mean.config.r}, and vLLM, by which trial {trials[0].name} decodes, applies at most "
    fits = not by_vllm or mean.config.r <= VLLM_MOST_RANK
    remedy = f"Set rank={VLLM_MOST_RANK}, or mean=false"
    require(fits, "rank", config.rank, f"{rule}{VLLM_MOST_RANK}", remedy)
    mean.save(own)
    if about := facts | copied_facts(folders[0] / META):
        write_json(own / META, about)
    about = {"name": "mean", "kind": "mean", "decodings": 1, "adapters": 1, "rank": mean.config.r, "kept": mean.kept}
    source = Source(trials[0], mean=own, rank=mean.config.r, parts=tuple(used))
    yield Combination({**about, "trials": [trial.name for trial in used]}, (source,), votes=False)


def _write(folder: Path, rows: Sequence[Mapping[str, Any]], one: Combination, texts: Answers, best: Trial) -> None:
    """Score texts as the best trial's were, by its utterances on the same set, and write the files of a trial."""
    options, by_id = read_options(written_config(best.folder).scoring), {str(row["id"]): row for row in rows}
    references = {key: str(row["reference"]) for key, row in by_id.items()}
    about = {key: {name: value for name, value in row.items() if name not in _HEARD} for key, row in by_id.items()}
    about = {key: {**row, "recording": str(row.get("recording") or key)} for key, row in about.items()}
    scores = scores_of_answers(references, texts, about, options)
    ranked = {name: best.record[name] for name in ("model", "rank_by") if name in best.record}
    write_json(folder / SCORES, {"trial": one.name, **scores, **ranked, "params": {}, "combination": one.facts})
    write_jsonl(folder / UTTERANCES, rows_of_answers(references, texts, about, options))


def _scored(folder: Path, like: Trial) -> Trial:
    """What was written, ranked as another trial is."""
    return replace(read_scored(folder, folder / SCORES, {}, is_base=False), rank_by=like.rank_by)


def confirmed(analysis: Analysis, chosen: Combination, folder: Path, executor: str | None = None) -> Tested | None:
    """The chosen combination on the sweep's test set, counted as a look at it; None where the sweep's own choice was
    not decoded there, with which it is compared. executor: as of ``decode_missing``.

    Raises:
        DataError: the test set has changed since, or as of ``Source.asked_on``.
    """
    held, manifest = analysis.unseen.test, analysis.unseen.manifest
    if held is None or manifest is None:
        return None
    inputs = Inputs()
    asked = [source.asked_on(manifest, inputs) for source in chosen.sources]
    evaluation = asked[0].evaluation
    if evaluation.reference_identity != held.trial.record.get("eval_identity"):
        problem = "has changed since the sweep's choice was decoded on it"
        again = f"Run python -m multirun_analysis {analysis.sweep.folder} --confirm"
        raise DataError(evaluation.conversations.called, problem, again)
    place = folder / "test" / chosen.name
    texts = chosen.texts(_decoded(asked, analysis, folder, executor))
    _write(place, held.trial.utterances, chosen, texts, held.of)
    [row] = compared(held.trial, [(chosen.facts, _scored(place, held.trial))])
    shown = [name for one in asked for name in one.transcripts]
    looks = look(evaluation.reference_identity, shown, analysis.sweep.folder)
    record_looks(analysis.sweep.folder, evaluation.reference_identity, looks)
    return Tested(manifest, held.of.name, held.trial.rate, row.rate, row.difference, row.interval, looks)
