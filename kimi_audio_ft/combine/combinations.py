"""Combinations of a sweep's trials, each with the files of a trial, and compared with the best of those combined.

- Samples of one trial, and texts of several trials: by minimum Bayes risk, from what the sweep has decoded.
- Adapters of several trials: their mean, with which the evaluation set is decoded.

They are made and chosen on the evaluation set; the chosen one is then decoded on the sweep's test set. What the store
lacks is decoded by the sweep's launcher.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kimi_audio_ft.base import base_facts
from kimi_audio_ft.combine.sources import TEMPERATURE, Source, adapter_of, chosen_trials, hypotheses_of, require_alike
from kimi_audio_ft.config.canonical import is_greedy
from kimi_audio_ft.config.checks import require
from kimi_audio_ft.config.commands import CombineConfig
from kimi_audio_ft.config.train import VLLM, VLLM_MOST_RANK
from kimi_audio_ft.decoding.transcripts import stored_transcripts
from kimi_audio_ft.errors import ConfigError, DataError, UserError
from kimi_audio_ft.files import write_json, write_jsonl
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.lora.average import mean_of_adapters
from kimi_audio_ft.manifest.prompts import copied_facts
from kimi_audio_ft.merging.folder import drafted, is_made
from kimi_audio_ft.paths import expanded
from kimi_audio_ft.scoring import read_options
from kimi_audio_ft.scoring.consensus import consensus, equal_votes, is_vote
from kimi_audio_ft.scoring.trial_scores import score_repeats, scores_by_set, utterance_rows
from kimi_audio_ft.store.looks import look
from kimi_audio_ft.store.make import META
from kimi_audio_ft.store.usage import using
from kimi_audio_ft.sweep.confirm.decoding import Asked, decode_missing
from kimi_audio_ft.sweep.confirm.unseen import record_looks
from kimi_audio_ft.sweep.plan import started_in, written_config
from kimi_audio_ft.sweep_folder import COMBINATIONS, COMBINATIONS_RECORD, UTTERANCES
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
from multirun_analysis.report.stored_combinations import chosen_of, compared, sampled_trials
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

    def texts(self, heard: Sequence[Sequence[Mapping[str, str]]]) -> list[Mapping[str, str]]:
        """Texts by id, one mapping per repeat, from those of each source; every source has the same weight."""
        if not self.votes:
            return list(heard[0])
        every, weights = equal_votes(heard)
        return [{key: consensus([one.get(key, "") for one in every], weights) for key in every[0]}]


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
    sampled = voters if config.trials else sampled_trials(analysis)
    trials = sorted(dict.fromkeys([*voters, *sampled]), key=lambda trial: trial.rate)
    require_alike(trials)
    out = expanded(config.out).resolve() if config.out else sweep / COMBINATIONS
    facts = _facts(trials, config)

    def is_done() -> bool:
        is_made(out, _RECORD, facts, config.overwrite, "set of combinations", key=MADE_OF)
        return False  # the sweep's choice may be tested by now

    with chdir(started_in(trials[0].folder)), using(sweep), drafted(out, is_done) as draft:
        assert draft is not None, "it is made again in any case"
        made = [*_of_samples(sampled, voters[0], config), *_of_trials(voters), *_of_adapters(voters, config, draft)]
        if not made:
            raise UserError(
                f"{sweep}: has nothing to combine: fewer than three texts of an utterance, and no two adapters "
                "that may be the best. Sample the best trial (samples=16), train it with several seeds "
                "(seed=1,2,3,4), or name trials (trials=[0,3])"
            )
        best = trials[0]
        texts = _heard(made, analysis, draft)
        for one in made:
            _write(draft / one.name, best.utterances, one, texts[one.name], best)
        rows = compared(best, [(one.facts, _scored(draft / one.name, best)) for one in made])
        chosen = chosen_of(rows)
        of_chosen = [one for one in made if chosen is not None and one.name == chosen.name]
        tested = confirmed(analysis, of_chosen[0], draft) if of_chosen else None
        record = {
            MADE_OF: facts,
            "best": {"trial": best.name, "rate": best.rate},
            "chosen": chosen and chosen.name,
            "combinations": [asdict(row) for row in rows],
            "test": tested and asdict(tested),
        }
        write_json(draft / _RECORD, record)
    return read_combinations(out)


def _heard(made: Sequence[Combination], analysis: Analysis, folder: Path) -> dict[str, list[Mapping[str, str]]]:
    """Texts of every combination by its name; what the sweep has not decoded is decoded now, all of it together."""
    inputs = Inputs()
    new = {source: source.asked(inputs) for one in made for source in one.sources if not source.is_decoded}
    found = dict(zip(new, _decoded(list(new.values()), analysis, folder), strict=True))
    every = {source: found.get(source) or hypotheses_of(source.trial) for one in made for source in one.sources}
    return {one.name: one.texts([every[source] for source in one.sources]) for one in made}


def _decoded(asked: Sequence[Asked], analysis: Analysis, folder: Path) -> list[Sequence[Mapping[str, str]]]:
    """Texts by id, one mapping per repeat, of each.

    Its tasks and their log lie in the sweep's folder, as those of the sweep, or in another one if that is not ours.
    """
    sweep = analysis.sweep.folder
    decode_missing(sweep, sweep if os.access(sweep, os.W_OK) else folder, asked, "decoding for combinations")
    found = [stored_transcripts(one.transcripts) for one in asked]
    return [transcripts.hypotheses for transcripts in found if transcripts is not None]


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


def _of_samples(trials: Sequence[Trial], best: Trial, config: CombineConfig) -> Iterator[Combination]:
    """The samples that the sweep has of a trial, and ``samples`` new ones by the adapter of the best one."""
    for trial in trials:
        count = len(hypotheses_of(trial))
        if is_vote([count]):
            facts = {"name": f"samples-{trial.name}", "kind": "samples", "decodings": count}
            yield Combination({**facts, "trials": [trial.name], "adapters": 1}, (Source(trial),))
    if config.samples is not None:
        temperature = config.temperature or TEMPERATURE
        source = Source(best, temperature, config.samples)
        if is_greedy(source.config.decoding):
            rule = f"trial {best.name} decodes with decoding.text_top_k=1, of which all samples are the same"
            raise ConfigError("samples", config.samples, rule, "Name other trials, or set samples=null")
        name = f"samples-{best.name}-at-{temperature:g}"
        facts = {"name": name, "kind": "samples", "decodings": config.samples, "temperature": temperature}
        yield Combination({**facts, "trials": [best.name], "adapters": 1}, (source,))


def _of_trials(trials: Sequence[Trial]) -> Iterator[Combination]:
    """All texts of all trials."""
    counts = [len(hypotheses_of(trial)) for trial in trials]
    if len(trials) > 1 and is_vote(counts):
        adapters = len({trial.record.get("signature") for trial in trials})
        facts = {"name": "trials", "kind": "trials", "decodings": sum(counts), "adapters": adapters}
        yield Combination({**facts, "trials": [trial.name for trial in trials]}, tuple(map(Source, trials)))


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


def _write(
    folder: Path, rows: Sequence[Mapping[str, Any]], one: Combination, texts: Sequence[Mapping[str, str]], best: Trial
) -> None:
    """Score texts as the best trial's were, by its utterances on the same set, and write the files of a trial."""
    options, by_id = read_options(written_config(best.folder).scoring), {str(row["id"]): row for row in rows}
    references = {key: str(row["reference"]) for key, row in by_id.items()}
    about = {key: {name: value for name, value in row.items() if name not in _HEARD} for key, row in by_id.items()}
    recordings = {key: str(row.get("recording") or key) for key, row in by_id.items()}
    sets = {key: row["set"] for key, row in by_id.items() if row.get("set") is not None}
    scores = score_repeats(references, texts, recordings, options)
    if sets:
        scores["sets"] = scores_by_set(sets, references, texts, options)
    ranked = {name: best.record[name] for name in ("model", "rank_by") if name in best.record}
    write_json(folder / SCORES, {"trial": one.name, **scores, **ranked, "params": {}, "combination": one.facts})
    write_jsonl(folder / UTTERANCES, utterance_rows(references, texts, about, options))


def _scored(folder: Path, like: Trial) -> Trial:
    """What was written, ranked as another trial is."""
    return replace(read_scored(folder, folder / SCORES, {}, is_base=False), rank_by=like.rank_by)


def confirmed(analysis: Analysis, chosen: Combination, folder: Path) -> Tested | None:
    """The chosen combination on the sweep's test set, counted as a look at it; None where the sweep's own choice was
    not decoded there, with which it is compared.

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
    texts = chosen.texts(_decoded(asked, analysis, folder))
    _write(place, held.trial.utterances, chosen, texts, held.of)
    [row] = compared(held.trial, [(chosen.facts, _scored(place, held.trial))])
    shown = [name for one in asked for name in one.transcripts]
    looks = look(evaluation.reference_identity, shown, analysis.sweep.folder)
    record_looks(analysis.sweep.folder, evaluation.reference_identity, looks)
    return Tested(manifest, held.of.name, held.trial.rate, row.rate, row.difference, row.interval, looks)
