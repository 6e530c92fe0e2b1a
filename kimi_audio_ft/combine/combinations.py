"""Combinations of a sweep's trials, each with the files of a trial, and compared with the best of those combined.

- Samples of one trial, and texts of several trials: by minimum Bayes risk, from what the sweep has decoded.
- Adapters of several trials: their mean, with which the evaluation set is decoded.

They are made and chosen on the evaluation set; the chosen one is then decoded on the sweep's test set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kimi_audio_ft.base import base_facts
from kimi_audio_ft.combine.sources import TEMPERATURE, Source, adapter_of, chosen_trials, hypotheses_of
from kimi_audio_ft.config.canonical import is_greedy
from kimi_audio_ft.config.checks import require
from kimi_audio_ft.config.commands import CombineConfig
from kimi_audio_ft.config.train import VLLM, VLLM_MOST_RANK
from kimi_audio_ft.decoding.consensus import consensus
from kimi_audio_ft.decoding.kept import vllm_kept
from kimi_audio_ft.errors import ConfigError, DataError, UserError
from kimi_audio_ft.files import write_json, write_jsonl
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.lora.average import mean_of_adapters
from kimi_audio_ft.manifest.prompts import copied_facts
from kimi_audio_ft.merging.folder import drafted, is_made
from kimi_audio_ft.paths import expanded
from kimi_audio_ft.scoring import read_options
from kimi_audio_ft.scoring.trial_scores import score_repeats, scores_by_set, utterance_rows
from kimi_audio_ft.store.looks import look
from kimi_audio_ft.store.make import META
from kimi_audio_ft.store.usage import using
from kimi_audio_ft.sweep.confirm.unseen import record_looks
from kimi_audio_ft.sweep.plan import started_in, written_config
from kimi_audio_ft.sweep_folder import COMBINATIONS, COMBINATIONS_RECORD, UTTERANCES
from multirun_analysis.analysis import Analysis, load_sweep
from multirun_analysis.report.combined import (
    MADE_OF,
    SCORES,
    VERSION,
    Combinations,
    Combined,
    Tested,
    facts_of,
    read_combinations,
)
from multirun_analysis.statistics.pairs import all_pairs
from multirun_analysis.statistics.randomisation import randomise
from multirun_analysis.statistics.results import Interval
from multirun_analysis.statistics.summary import SEED
from multirun_analysis.statistics.tally import tally_up
from multirun_analysis.sweep import Trial, read_scored

_RECORD = Path(COMBINATIONS_RECORD).name
# Fewer texts have no majority: of two, the first is taken.
_FEWEST = 3
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
        whole = math.lcm(*map(len, heard))
        weights = [whole // len(repeats) for repeats in heard for _ in repeats]
        every = [repeat for repeats in heard for repeat in repeats]
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
    trials = chosen_trials(analysis, config)
    out = expanded(config.out).resolve() if config.out else sweep / COMBINATIONS
    facts = _facts(trials, config)

    def is_done() -> bool:
        is_made(out, _RECORD, facts, config.overwrite, "set of combinations", key=MADE_OF)
        return False  # the sweep's choice may be tested by now

    with chdir(started_in(trials[0].folder)), using(sweep), drafted(out, is_done) as draft:
        assert draft is not None, "it is made again in any case"
        made = [*_of_samples(trials, config), *_of_trials(trials), *_of_adapters(trials, config, draft)]
        if not made:
            raise UserError(
                f"{sweep}: has nothing to combine: fewer than {_FEWEST} texts of an utterance, and no two adapters "
                "that may be the best. Sample the best trial (samples=16), train it with several seeds "
                "(seed=1,2,3,4), or name trials (trials=[0,3])"
            )
        best = trials[0]
        ranks = [written_config(best.folder).lora.r, *(one.facts.get("rank", 0) for one in made)]
        with vllm_kept(max(ranks)):
            for one in made:
                _write(
                    draft / one.name, best.utterances, one, one.texts([source.heard() for source in one.sources]), best
                )
            rows = compared(best, made, draft)
            chosen = chosen_of(rows)
            tested = (
                confirmed(analysis, next(one for one in made if one.name == chosen.name), draft) if chosen else None
            )
        record = {
            MADE_OF: facts,
            "best": {"trial": best.name, "rate": best.rate},
            "chosen": chosen and chosen.name,
            "combinations": [asdict(row) for row in rows],
            "test": tested and asdict(tested),
        }
        write_json(draft / _RECORD, record)
    return read_combinations(out)


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


def chosen_of(rows: Sequence[Combined]) -> Combined | None:
    """The combination with the lowest rate that is better than the single trial: as far as it is shown, unless it costs
    no more decodings in use; None without one."""
    better = [row for row in rows if row.is_shown or (row.difference < 0 and row.decodings == 1)]
    return min(better, key=lambda row: (row.rate, row.decodings), default=None)


def _of_samples(trials: Sequence[Trial], config: CombineConfig) -> Iterator[Combination]:
    """The samples that the sweep has of a trial, and ``samples`` new ones of the best trial."""
    for trial in trials:
        count = len(hypotheses_of(trial))
        if count >= _FEWEST:
            facts = {"name": f"samples-{trial.name}", "kind": "samples", "decodings": count}
            yield Combination({**facts, "trials": [trial.name], "adapters": 1}, (Source(trial),))
    if config.samples is not None:
        temperature = config.temperature or TEMPERATURE
        source = Source(trials[0], temperature, config.samples)
        if is_greedy(source.config.decoding):
            rule = f"trial {trials[0].name} decodes with decoding.text_top_k=1, of which all samples are the same"
            raise ConfigError("samples", config.samples, rule, "Name other trials, or set samples=null")
        name = f"samples-{trials[0].name}-at-{temperature:g}"
        facts = {"name": name, "kind": "samples", "decodings": config.samples, "temperature": temperature}
        yield Combination({**facts, "trials": [trials[0].name], "adapters": 1}, (source,))


def _of_trials(trials: Sequence[Trial]) -> Iterator[Combination]:
    """All texts of all trials."""
    decodings = sum(len(hypotheses_of(trial)) for trial in trials)
    if len(trials) > 1 and decodings >= _FEWEST:
        adapters = len({trial.record.get("signature") for trial in trials})
        facts = {"name": "trials", "kind": "trials", "decodings": decodings, "adapters": adapters}
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
    source = Source(trials[0], mean=own, parts=tuple(used))
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


def compared(single: Trial, made: Sequence[Combination], folder: Path) -> list[Combined]:
    """Combinations against a single trial, on the same utterances, by the methods of the sweep's report."""
    found = [read_scored(folder / one.name, folder / one.name / SCORES, {}, is_base=False) for one in made]
    trials = [replace(trial, rank_by=single.rank_by) for trial in found]
    tally = tally_up([single, *trials]).ranked
    enough = tally is not None and tally.has_enough and len(tally.trials) > 1
    pairs = all_pairs(tally, randomise(tally.whole_edits, SEED)) if tally is not None and enough else []
    of_single = {pair.second: pair for pair in pairs if pair.first is single}
    rows = []
    for one, trial in zip(made, trials, strict=True):
        pair = of_single.get(trial)
        bounds = pair.interval if pair else None
        interval = None if bounds is None else Interval(-bounds.high, -bounds.low)
        p = pair.p_adjusted if pair else None
        rows.append(
            Combined(**one.facts, rate=trial.rate, difference=trial.rate - single.rate, interval=interval, p_adjusted=p)
        )
    return rows


def confirmed(analysis: Analysis, chosen: Combination, folder: Path) -> Tested | None:
    """The chosen combination on the sweep's test set, counted as a look at it; None where the sweep's own choice was
    not decoded there, with which it is compared.

    Raises:
        DataError: the test set has changed since, or as of ``Source.heard_on``.
    """
    held, manifest = analysis.unseen.test, analysis.unseen.manifest
    if held is None or manifest is None:
        return None
    inputs = Inputs()
    decoded = [source.heard_on(manifest, inputs) for source in chosen.sources]
    evaluation = decoded[0][0]
    if evaluation.reference_identity != held.trial.record.get("eval_identity"):
        problem = "has changed since the sweep's choice was decoded on it"
        again = f"Run python -m multirun_analysis {analysis.sweep.folder} --confirm"
        raise DataError(evaluation.conversations.called, problem, again)
    texts = chosen.texts([transcripts.hypotheses for _, transcripts in decoded])
    _write(folder / "test" / chosen.name, held.trial.utterances, chosen, texts, held.of)
    [row] = compared(held.trial, [chosen], folder / "test")
    shown = [name for _, transcripts in decoded for name in transcripts.signatures]
    looks = look(evaluation.reference_identity, shown, analysis.sweep.folder)
    record_looks(analysis.sweep.folder, evaluation.reference_identity, looks)
    return Tested(manifest, held.of.name, held.trial.rate, row.rate, row.difference, row.interval, looks)
