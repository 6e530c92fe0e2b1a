"""The leaderboard: parameters that vary in a sweep, trials ranked by error rate, their gain over the zero-shot base."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from math import prod
from statistics import mean
from typing import Any

from kimi_audio_ft.config.train import SEEDS
from kimi_audio_ft.errors import UserError
from multirun_analysis.checks import REFERENCE_SET, check_comparable
from multirun_analysis.params import distinct, identity, order, value_of
from multirun_analysis.settings import Setting, settings_of
from multirun_analysis.sweep import Sweep, Trial

LEADING_PARAMS = ("lora.r", "optim.lr", "decoding.text_temperature")


@dataclass(frozen=True)
class Row:
    """A trial or base as it stands in the comparison.

    ``rank`` counts the settings with a strictly lower rate than its own, plus one; a base has none.
    ``gain`` is the relative reduction of the rate against the base under the same decoding: 0.8 is four fifths fewer
        errors.
    """

    trial: Trial
    rank: int | None
    base: Trial | None
    gain: float | None
    setting: Setting


@dataclass(frozen=True)
class Adapter:
    """One training run, shared by the trials that differ only in decoding; ``source`` is the trial that shows it."""

    signature: str
    source: Trial
    trials: list[Trial]

    @property
    def train_seconds(self) -> float | None:
        """Time of the training itself; None when every trial found the adapter in the store."""
        spent = [trial.record.get("train_seconds") for trial in self.trials if not trial.record.get("train_reused")]
        return max((seconds for seconds in spent if seconds is not None), default=None)

    @property
    def stored_seconds(self) -> float:
        """Time that an earlier sweep took for an adapter that this one found in the store; 0 for any other."""
        spent = [trial.record.get("train_seconds") or 0.0 for trial in self.trials]
        return max(spent) if self.train_seconds is None else 0.0


@dataclass(frozen=True, eq=False)
class Comparison:
    """A sweep with its finished trials compared on one reference set; equal to itself alone."""

    sweep: Sweep
    swept: list[str]
    rows: list[Row]

    @property
    def rank_by(self) -> str:
        """The error rate that trials are ranked by, of ``RATES``."""
        return self.sweep.rank_by

    @property
    def best(self) -> Row:
        return next(row for row in self.rows if not row.trial.is_base)

    @cached_property
    def settings(self) -> list[Setting]:
        """Settings and bases, the lowest mean rate first."""
        return list(dict.fromkeys(row.setting for row in self.rows))

    @cached_property
    def has_seeds(self) -> bool:
        """Whether some setting has several seeds, so that settings are compared and not trials."""
        return any(len(setting.trials) > 1 for setting in self.settings if not setting.is_base)

    @cached_property
    def setting_of(self) -> dict[Trial, Setting]:
        """The setting of every finished trial and base."""
        return {row.trial: row.setting for row in self.rows}

    def gain(self, setting: Setting) -> float | None:
        """Of a setting over the base, mean of the seeds whose base is known; None without any."""
        gains = [row.gain for row in self.rows if row.setting is setting]
        known = [gain for gain in gains if gain is not None]
        return mean(known) if known else None

    @property
    def naming(self) -> list[str]:
        """Swept parameters that tell settings apart; without seeds all that are swept."""
        return [param for param in self.swept if not (self.has_seeds and param in SEEDS)]

    @property
    def trained(self) -> list[str]:
        """Swept parameters that make adapters differ: all but those of the decoding."""
        return [param for param in self.swept if not param.startswith("decoding")]

    @property
    def reference_set(self) -> dict[str, Any]:
        """The references that all trials were scored on."""
        return {key: self.best.trial.record.get(key) for key in (*REFERENCE_SET, "eval_manifest")}

    @property
    def lowest_base(self) -> Trial | None:
        return min(self.sweep.baselines, key=lambda base: base.rate, default=None)

    def distinct(self, param: str) -> list[Any]:
        """Values of ``param`` among the finished trials, in order."""
        return distinct([value_of(trial, param) for trial in self.sweep.finished])

    @cached_property
    def charted(self) -> list[str]:
        """Swept parameters with at least two values among the finished trials."""
        return [param for param in self.swept if len(self.distinct(param)) > 1]

    @cached_property
    def is_grid(self) -> bool:
        """Whether trials were launched for every combination of values, unlike in a search such as Optuna's.

        Not of seeds, which only the best settings may have several of.
        """
        combinations = prod(len(self.distinct(param)) for param in self.charted if param in self.naming)
        return combinations <= max(len(self.sweep.trials), self.sweep.planned or 0)

    def means(self, param: str) -> list[tuple[Any, float]]:
        """Each value of ``param``, in order, with the mean rate of the finished trials that have it."""
        rates: dict[str, list[float]] = {}
        for trial in self.sweep.finished:
            rates.setdefault(identity(value_of(trial, param)), []).append(trial.rate)
        return [(value, mean(rates[identity(value)])) for value in self.distinct(param)]

    @property
    def train_seconds(self) -> list[float]:
        """Training times of the adapters that were trained, not taken from the store."""
        return [adapter.train_seconds for adapter in self.adapters if adapter.train_seconds is not None]

    @property
    def stored_seconds(self) -> list[float]:
        """What the adapters from the store took to train when they were made."""
        return [adapter.stored_seconds for adapter in self.adapters if adapter.stored_seconds]

    @property
    def fitting_seconds(self) -> float:
        """Time in which the sweep trained anything: as measured, otherwise the sum over the adapters."""
        measured = self.sweep.fitting_seconds
        return sum(self.train_seconds) if measured is None else measured

    @cached_property
    def adapters(self) -> list[Adapter]:
        """The distinct training runs of the finished trials, ordered by their training parameters."""
        groups: dict[str, list[Trial]] = {}
        for trial in self.sweep.finished:
            groups.setdefault(trial.record.get("signature") or trial.name, []).append(trial)
        adapters = [
            Adapter(signature, next((t for t in some if t.curves), some[0]), some) for signature, some in groups.items()
        ]
        return sorted(adapters, key=lambda adapter: [order(value_of(adapter.source, p)) for p in self.trained])


def compare(sweep: Sweep) -> Comparison:
    """Rank the finished trials of ``sweep`` and the zero-shot base by ``sweep.rank_by``.

    Raises:
        UserError: no trial is finished, or trials were scored on different reference sets, by different versions of
            the normalisation or under different options.
    """
    if not sweep.finished:
        raise _nothing_finished(sweep)
    check_comparable(sweep)
    swept = swept_params(sweep)
    return Comparison(sweep, swept, _leaderboard(sweep, swept))


def swept_params(sweep: Sweep) -> list[str]:
    """Flat config keys and overrides whose value differs among the trials, the usual three first, the seed last.

    A parameter that merely follows another one (``lora.lora_alpha`` when it defaults to twice the rank) is left out,
    unless it was given on the command line.
    """
    trials = _launched(sweep)
    keys = dict.fromkeys(key for trial in trials for key in (*trial.params, *trial.overrides))
    varied = [key for key in keys if len(distinct(_values_where_known(sweep, key))) > 1]
    given = {key for key in varied if any(key in trial.overrides for trial in trials)}
    kept: list[str] = []
    for key in sorted(varied, key=lambda key: (key not in given, *_preference(key))):
        if key in given or not any(_follows(sweep, key, leader) for leader in kept):
            kept.append(key)
    return sorted(kept, key=_preference)


def _preference(param: str) -> tuple[bool, int]:
    position = LEADING_PARAMS.index(param) if param in LEADING_PARAMS else len(LEADING_PARAMS)
    return (param in SEEDS, position)


def _values_where_known(sweep: Sweep, param: str) -> list[Any]:
    """A key that is in scores.json is judged by the trials that have it; one known from command lines only, by all."""
    if any(param in trial.params for trial in sweep.finished):
        return [value_of(t, param) for t in _launched(sweep) if param in t.params or param in t.overrides]
    return [value_of(trial, param) for trial in _launched(sweep)]


def _launched(sweep: Sweep) -> list[Trial]:
    """The trials, and adapters that were stopped before they became any."""
    return [*sweep.trials, *(trial for _, trial in sweep.stopped)]


def _follows(sweep: Sweep, param: str, leader: str) -> bool:
    """Whether each value of ``leader`` comes with one value of ``param``."""
    pairs = {(identity(value_of(t, leader)), identity(value_of(t, param))) for t in sweep.finished}
    return len(pairs) == len({first for first, _ in pairs})


def _leaderboard(sweep: Sweep, swept: list[str]) -> list[Row]:
    settings = settings_of(sweep.finished, swept) + settings_of(sweep.baselines, swept)
    rates = sorted(setting.rate for setting in settings if not setting.is_base)
    bases = {base.decoding_key: base for base in sweep.baselines}
    rows = []
    for setting in sorted(settings, key=_by_merit):
        for trial in setting.trials:
            if trial.is_base:
                rows.append(Row(trial, None, None, None, setting))
                continue
            base = bases.get(trial.decoding_key)
            gain = 1 - trial.rate / base.rate if base and base.rate else None
            rows.append(Row(trial, 1 + bisect_left(rates, setting.rate), base, gain, setting))
    return rows


def _by_merit(setting: Setting) -> tuple[float, float, float, float, int]:
    """The rate that ranks first; ties go to the lower CER, normalised CER, WER, then the smaller adapter."""
    scores = [trial.strict for trial in setting.trials if trial.strict is not None]
    normalised = [trial.normalised.cer if trial.normalised else trial.cer for trial in setting.trials]
    parameters = setting.trial.record.get("trainable_parameters") or 0
    cer, wer = (mean(found) for found in zip(*((one.cer, one.wer or 0.0) for one in scores), strict=True))
    return (setting.rate, cer, mean(normalised), wer, parameters)


def _nothing_finished(sweep: Sweep) -> UserError:
    failed, unfinished = len(sweep.failed), len(sweep.unfinished)
    reason = f"{sweep.folder}: no finished trial (no scores.json): {failed} failed, {unfinished} unfinished"
    if sweep.failed:
        reason += f". Trial {sweep.failed[0].name}: {sweep.failed[0].failure}"
    return UserError(f"{reason}. Fix the cause and re-run the sweep: finished trials are skipped")
