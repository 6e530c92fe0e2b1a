"""Values, names of trials and results in words: one wording for the terminal, the tables and the report.

Sentences are English unless another language's messages are given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from kimi_audio_ft.config.commands import SNR
from kimi_audio_ft.config.train import ScoringConfig
from kimi_audio_ft.scoring.error_rates import is_han, mixed_units
from kimi_audio_ft.scoring.intervals import FEW_RECORDINGS, MANY_RECORDINGS
from kimi_audio_ft.text import duration
from multirun_analysis.analysis import Analysis
from multirun_analysis.compare import Adapter, Comparison
from multirun_analysis.learning import SIZE_PARAM, LearningCurve, LearningStudy
from multirun_analysis.messages import ENGLISH, Messages
from multirun_analysis.params import identity, is_of_base, value_of
from multirun_analysis.settings import Setting
from multirun_analysis.statistics.results import Interval, Needed, Overfitting, Reason, Statistics
from multirun_analysis.statistics.slices import DURATION, Slice, Slicing
from multirun_analysis.sweep import HalvedAdapter, Halving, Trial

FEW = 100  # a mean count below this is written with its tenths
MOST_NAMED = 6
MOST_SEEDS = 50  # of one setting: nobody trains more
MOST_RECORDED = 100_000  # utterances: no test set has more, so a larger number is of no use

# Values.


def param_name(param: str, say: Messages = ENGLISH) -> str:
    """A parameter's name; its config key when it has none."""
    return say.get(f"param.{param}", param)


def short_key(param: str) -> str:
    """The config key without ``decoding.text_`` or ``data.``."""
    return param.removeprefix("decoding.").removeprefix("text_").removeprefix("data.")


def show(value: Any) -> str:
    """A parameter's value as one would type it: 5e-5, 0.0, true, [a, b]."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            mantissa, _, exponent = f"{value:e}".partition("e")
            return f"{float(mantissa):g}e{int(exponent)}"
        return f"{value:.1f}" if value.is_integer() else f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    return str(value)


def shown(param: str, value: Any, say: Messages = ENGLISH) -> str:
    """A parameter's value; the meaning of None where it has one."""
    return say.get(f"open.{param}", show(value)) if value is None else show(value)


def rate(fraction: float | None, digits: int = 2) -> str:
    """A fraction in percent, without the sign; a dash when unknown."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f}"


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a percentage; a dash when unknown."""
    return "–" if fraction is None else f"{rate(fraction, digits)} %"


def change(gain: float | None) -> str:
    """A gain over the base as the change of the error rate that it is: 0.8 is -80 %; a dash when unknown."""
    if gain is None:
        return "–"
    whole = round(-100 * gain)
    return f"{whole:+d} %" if whole else "0 %"


def points(difference: float, say: Messages = ENGLISH) -> str:
    """A difference of two error rates in percentage points, whichever is larger."""
    found = abs(100 * difference)
    return say("points.under", least="0.01") if found < 0.005 else say("points.of", n=f"{found:.2f}")


def count(number: float | None) -> str:
    """A count, or a mean of counts over repeats; a dash when unknown."""
    if number is None:
        return "–"
    return f"{number:.0f}" if number >= FEW else f"{number:.1f}".removesuffix(".0")


# Names of trials and adapters.


def setting(trial: Trial, params: list[str], say: Messages = ENGLISH) -> str:
    """The values that tell ``trial`` from its siblings, for example ``lora.r=8 optim.lr=0.001 temperature=0.3``."""
    return " ".join(f"{short_key(param)}={shown(param, value_of(trial, param), say)}" for param in params)


def trial_title(trial: Trial, swept: list[str], say: Messages = ENGLISH) -> str:
    """A trial or a base named by what differs from its siblings."""
    if not trial.is_base:
        return setting(trial, swept, say) or trial.label
    asked = setting(trial, [param for param in swept if is_of_base(param)], say)
    return f"{say('base.name')} {asked}".strip()


def setting_title(trial: Trial, comparison: Comparison, say: Messages = ENGLISH) -> str:
    """The trial's setting, named by what differs from the others: without seeds the trial itself."""
    if trial.is_base or not comparison.has_seeds:
        return trial_title(trial, comparison.naming, say)
    return setting(trial, comparison.naming, say) or say("setting.one")


def named(trial: Trial, comparison: Comparison, say: Messages = ENGLISH) -> str:
    """A trial within a sentence, with its number; a setting of several seeds by what its trials share."""
    title = setting_title(trial, comparison, say)
    if trial.is_base or comparison.has_seeds:
        return title
    return say("trial.named", number=trial.name, name=title)


def entry(trial: Trial, swept: list[str], say: Messages = ENGLISH) -> str:
    """A trial in a list or a tooltip: its number, and what differs from its siblings."""
    title = trial_title(trial, swept, say)
    return title if trial.is_base else f"{trial.name}: {title}"


def seed_title(trial: Trial, comparison: Comparison, say: Messages = ENGLISH) -> str:
    """A trial named by what differs from the others of its setting."""
    return setting(trial, [param for param in comparison.swept if param not in comparison.naming], say)


def adapter_name(
    adapter: Adapter,
    comparison: Comparison,
    say: Messages = ENGLISH,
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """An adapter named by what its training differs in from its siblings'.

    labels: of values, by parameter and ``identity``; without them values are written whole.
    """
    values = {param: value_of(adapter.source, param) for param in comparison.trained}
    short = {param: (labels or {}).get(param, {}).get(identity(value)) for param, value in values.items()}
    named = [f"{short_key(param)}={short[param] or shown(param, value, say)}" for param, value in values.items()]
    return " ".join(named) or say("loss.adapter")


def training_time(trial: Trial, say: Messages = ENGLISH) -> str:
    """Time that training the trial's adapter took, and whether it was in the store by then."""
    if trial.is_base:
        return "–"
    seconds, reused = trial.record.get("train_seconds"), trial.record.get("train_reused")
    if not reused:
        return duration(seconds)
    return f"{duration(seconds)} ({say('board.reused')})" if seconds else say("board.reused")


# The result, and what it took.


def headline(comparison: Comparison, say: Messages = ENGLISH) -> str:
    """The sweep's result in one sentence."""
    best, of = comparison.best, comparison.best.setting
    name = setting(best.trial, comparison.naming, say)
    key = "headline.best_setting" if len(of.trials) > 1 else "headline.best"
    if not name:
        name, key = say("setting.one") if comparison.has_seeds else best.trial.label, "headline.one"
    said = say(key, number=best.trial.name, name=name, cer=percent(of.rate))
    if len(of.trials) > 1:
        said = say("headline.mean", said=said, n=len(of.trials), low=percent(of.lowest), high=percent(of.highest))
    base = next((one.rate for one in comparison.settings if one.is_base), None)  # the lowest, as in the verdict
    if base is None:
        return say("headline.no_base", said=said)
    gain = 1 - of.rate / base if base else None
    return say("headline.base", said=said, base=percent(base), gain=_gain_in_words(of, gain, say))


def _gain_in_words(best: Setting, gain: float | None, say: Messages) -> str:
    if gain is None:  # nothing to divide by
        return say("gain.worse" if best.rate else "gain.none")
    if not gain:
        return say("gain.none")
    share = percent(abs(gain), 0 if abs(gain) >= 0.01 else 2)
    return say("gain.reduction" if gain > 0 else "gain.increase", share=share)


def effort(comparison: Comparison, say: Messages = ENGLISH) -> str:
    """Numbers of trials and adapters, training time, and trainings saved by sharing adapters."""
    sweep, comma = comparison.sweep, say("list.comma")
    counts = {"finished": sweep.finished, "failed": sweep.failed, "unfinished": sweep.unfinished}
    trials = [say(f"effort.{how}", n=len(some)) for how, some in counts.items() if some]
    trials += [say("effort.not_begun", n=sweep.not_begun)] if sweep.not_begun else []
    trials += [say("effort.repeated", n=sweep.repeated)] if sweep.repeated else []
    adapters, trained = comparison.adapters, comparison.train_seconds
    reused, stored = len(adapters) - len(trained), sum(comparison.stored_seconds)
    fitted = [say("effort.adapters", n=len(adapters))]
    fitted += [
        say("effort.trained", n=len(trained), time=duration(comparison.fitting_seconds))
        if trained
        else say("effort.all_reused_in" if stored else "effort.all_reused", time=duration(stored))
    ]
    fitted += [say("effort.reused", n=reused)] if trained and reused else []
    parts = [comma.join(trials), comma.join(fitted)]
    if len(trained) < len(sweep.finished) and (trained or stored):  # a sweep of ``evaluate`` trains nothing anyway
        parts.append(say("effort.shared", n=len(sweep.finished)))
    partial = say("effort.partial") if sweep.unfinished or sweep.not_begun else ""
    return say("effort.join").join(parts) + say("effort.end") + partial


def halving_in_words(halving: Halving, say: Messages = ENGLISH) -> str:
    """How many adapters were stopped at which step, and the steps that saved, in one sentence."""
    stopped = Counter(one.step for one in halving.candidates if one.decision == "stopped")
    failed = sum(one.decision == "failed" for one in halving.candidates)
    parts = [say("halving.stopped_at", n=count, step=step) for step, count in sorted(stopped.items())]
    parts += [say("effort.failed", n=failed)] if failed else []
    losses = say("list.comma").join(parts) or say("halving.none")
    said = say("halving.summary", metric=halving.metric, n=len(halving.candidates), losses=losses)
    if not halving.steps_of_all:
        return said + say("effort.end")
    share = round(100 * halving.steps_trained / halving.steps_of_all)
    return say("halving.saved", said=said, trained=halving.steps_trained, all=halving.steps_of_all, share=share)


def halving_score(halving: Halving, adapter: HalvedAdapter) -> str:
    """An adapter's score as the metric is written; a dash when unknown."""
    if adapter.score is None or halving.metric != "loss":
        return rate(adapter.score)
    return f"{adapter.score:.4f}"


# The statistics: the group of the best, the recommendation, overfitting.


def recommendation(analysis: Analysis, say: Messages) -> str:
    """The recommended trial, and the reason."""
    statistics, rates = analysis.statistics, {trial: of.rate for trial, of in analysis.setting_of.items()}
    taken, best, group = statistics.recommended, analysis.best.trial, len(statistics.best_group)
    counted = {Reason.LOWEST: group - 1, Reason.TOO_FEW_RECORDINGS: statistics.recordings}
    others = sum(not standing.trial.is_base for standing in statistics.standings) - 1
    key = f"verdict.{'settings.' if analysis.has_seeds else ''}{statistics.reason}"
    stopped = sum(one.decision == "stopped" for one, _ in analysis.sweep.stopped)
    if statistics.reason is Reason.ONLY and stopped:
        key, others = "verdict.survivor", stopped
    excess = next((one.excess for one in statistics.standings if one.trial is taken), 0.0)
    return say(
        key,
        n=counted.get(statistics.reason, others),
        name=named(taken, analysis, say),
        cer=percent(rates[taken], 2),
        group=group,
        best=named(best, analysis, say),
        best_cer=percent(rates[best], 2),
        choice=named(statistics.choice, analysis, say),
        choice_cer=percent(rates[statistics.choice], 2),
        excess=percent(excess / rates[best] if rates[best] else 0.0, 1),
        margin=percent(statistics.margin, 1),
    )


def verdict(analysis: Analysis, say: Messages) -> list[str]:
    """The first of the conclusions: the recommendation and its gain."""
    return [recommendation(analysis, say), *_gain(analysis.statistics, say)]


def conclusions(analysis: Analysis, say: Messages) -> list[str]:
    """The recommendation and its gain; how trials were tested, what would tell the best two apart, what overfitted."""
    statistics = analysis.statistics
    lines = [recommendation(analysis, say), *_gain(statistics, say), *_adapter(analysis, say)]
    if statistics.standings:
        interval = say("verdict.log_t" if statistics.recordings < MANY_RECORDINGS else "verdict.bootstrap_t")
        recordings = f"{statistics.recordings:,}"
        lines.append(say("verdict.method", recordings=recordings, interval=interval, whose=_whose(statistics, say)))
        if statistics.recordings < FEW_RECORDINGS:
            lines.append(say("verdict.few_recordings", n=statistics.recordings))
        if not statistics.grouped:
            lines.append(say("verdict.ungrouped"))
    if statistics.needed is not None and len(statistics.best_group) > 1:
        lines.append(_needed(statistics.needed, analysis, say))
    lines += _ranked_by(analysis, say)
    if statistics.left_out:
        names = _some([trial.name for trial in statistics.left_out], say)
        lines.append(say("verdict.left_out", n=len(statistics.left_out), names=names))
    if statistics.beyond:
        out = len(statistics.left_out) + len(statistics.beyond)
        lines.append(say("verdict.beyond", n=len(analysis.sweep.finished) - out))
    cut = [number for trial in analysis.sweep.finished if (number := trial.strict and trial.strict.truncated_outputs)]
    if cut:
        lines.append(say("verdict.truncated", n=len(cut), most=count(max(cut))))
    lines += _overlaps(analysis, say)
    turned = [verdict for verdict in statistics.overfitting if verdict.kind == "turned"]
    if turned:
        named = [(adapter_name(one.adapter, analysis, say), where(one, say)) for one in turned]
        names = _some([say("verdict.place", name=name, at=at) for name, at in named], say)
        lines.append(say("verdict.turned", n=len(turned), names=names))
    return lines


def _adapter(analysis: Analysis, say: Messages) -> list[str]:
    """The adapter to take where a setting with several seeds is recommended."""
    taken = analysis.statistics.recommended
    seeds = len(analysis.setting_of[taken].trials)
    if taken.is_base or seeds == 1:
        return []
    return [
        say(
            "verdict.adapter",
            number=taken.name,
            name=seed_title(taken, analysis, say),
            cer=percent(taken.rate, 2),
            n=seeds,
        )
    ]


def _ranked_by(analysis: Analysis, say: Messages) -> list[str]:
    """What ranks the trials if not the CER, and whether the references are fit for it."""
    rank_by = analysis.rank_by
    if rank_by == ScoringConfig.rank_by:
        return []
    lines = [say("verdict.rank_by", option=rank_by)]
    if rank_by in ("wer", "pinyin"):
        texts = [str(row.get("reference")) for row in analysis.best.trial.utterances]
        units = [unit for text in texts for unit in mixed_units(text)]
        han = sum(map(is_han, units))
        lines += [say("verdict.wer_of_han")] if rank_by == "wer" and 2 * han > len(units) else []
        lines += [say("verdict.pinyin_without_han")] if rank_by == "pinyin" and units and not han else []
    return lines


def _whose(statistics: Statistics, say: Messages) -> str:
    """Whether the verdict is about adapters, or about settings whatever their seeds."""
    seeds = statistics.seeds
    if seeds is None:
        return say("verdict.of_adapters")
    return say("verdict.of_settings", spread=percent(float(seeds.spread[0])), n=int(seeds.freedom[0]))


def _overlaps(analysis: Analysis, say: Messages) -> list[str]:
    """Sentences on what was both trained on and evaluated."""
    found = [trial.overlap for trial in analysis.sweep.finished if trial.overlap]
    utterances = [known for one in found if (known := one.get("utterances"))]
    groups = sorted({str(name) for one in found for name in one.get("groups") or ()})
    lines = []
    if utterances:
        of = analysis.reference_set["num_references"]
        lines.append(say("verdict.trained_on", n=len(utterances), most=max(utterances), of=show(of)))
    if groups:
        lines.append(say("verdict.groups", n=len(groups), names=_some(groups, say)))
    return lines


def overfitted(verdict: Overfitting, say: Messages) -> str:
    """The verdict with the difference of losses that it rests on."""
    best, final = verdict.best_loss, verdict.final_loss
    rise = "–" if best is None or final is None else f"{final - best:.2f}"
    gap = "–" if verdict.gap is None else f"{verdict.gap:.2f}"
    return say(f"overfit.{verdict.kind}", at=where(verdict, say), rise=rise, gap=gap)


def where(verdict: Overfitting, say: Messages) -> str:
    """Epoch of the lowest validation loss; its step where epochs were not logged."""
    if verdict.best_epoch is not None:
        return say("overfit.epoch", n=f"{verdict.best_epoch:g}")
    return "–" if verdict.best_step is None else say("overfit.step", n=verdict.best_step)


def _gain(statistics: Statistics, say: Messages) -> list[str]:
    """What the recommended trial gains over the base, where that is shown."""
    gain = statistics.gain
    if gain is None or gain.interval is None or not gain.shown or not gain.base_rate:
        return []
    low, high = -gain.interval.high, -gain.interval.low
    return [
        say(
            "verdict.gain",
            base=percent(gain.base_rate, 2),
            relative=percent(-gain.difference / gain.base_rate, 1),
            points=points(gain.difference, say),
            low=f"{100 * low:.2f}",
            high=f"{100 * high:.2f}",
        )
    ]


def _needed(needed: Needed, analysis: Analysis, say: Messages) -> str:
    names = {side: named(getattr(needed, side), analysis, say) for side in ("first", "second")}
    if needed.utterances is None or needed.recordings is None:
        return say("verdict.needed_never", **names)
    difference = points(needed.difference, say)
    if needed.utterances > MOST_RECORDED:
        return say("verdict.needed_beyond", **names, difference=difference, most=f"{MOST_RECORDED:,}")
    if (needed.seeds or 0) > MOST_SEEDS:
        return say("verdict.needed_beyond_seeds", **names, difference=difference, most=show(MOST_SEEDS))
    return say(
        "verdict.needed" if needed.seeds is None else "verdict.needed_seeds",
        **names,
        seeds=show(needed.seeds),
        power=show(needed.power),
        utterances=f"{needed.utterances:,}",
        recordings=f"{needed.recordings:,}",
        have_utterances=f"{analysis.statistics.utterances:,}",
        have_recordings=f"{analysis.statistics.recordings:,}",
    )


def _some(names: list[str], say: Messages) -> str:
    """The first names, and an ellipsis for the rest."""
    return say.listed(names) if len(names) <= MOST_NAMED else say("list.comma").join([*names[:MOST_NAMED], "…"])


# Slices.


def slicing_title(slicing: Slicing, say: Messages) -> str:
    """The column's name; of the duration and of the noise, in words."""
    words = {DURATION: "slices.duration", SNR: "slices.snr"}
    return say(words[slicing.column]) if slicing.column in words else slicing.column


def slice_title(one: Slice, slicing: Slicing, say: Messages) -> str:
    """A value, or the bounds of a class of numbers."""
    if one.bounds is None:
        return one.value or say("slices.unmeasured" if slicing.column == SNR else "slices.empty")
    low, high = (f"{bound:g}" for bound in one.bounds)
    return say("slices.between", low=low, high=high)


# Learning curves.


def learning_sentences(study: LearningStudy, say: Messages) -> list[str]:
    """Each curve's law in words, or the reason for having no curve."""
    if study.refused is not None:
        return [say("learning.refused", param=SIZE_PARAM)]
    return [_law(curve, say) for curve in study.curves]


def learning_in_words(study: LearningStudy | None, say: Messages) -> list[str]:
    """The same with every curve's forecasts, which the page has as a table; nothing for any other sweep."""
    if study is None or study.refused is not None:
        return learning_sentences(study, say) if study else []
    lines = []
    for curve in study.curves:
        lines += [say("learning.told", said=_law(curve, say)), _forecasts(curve, say)]
    return lines


def curve_name(curve: LearningCurve, say: Messages) -> str:
    """The values of the other swept parameters."""
    named = [f"{short_key(param)}={shown(param, value, say)}" for param, value in curve.setting.items()]
    return " ".join(named) or say("learning.one")


def in_percent(interval: Interval | None, say: Messages) -> str:
    """An interval; a dash where there are too few recordings for one."""
    if interval is None:
        return "–"
    return say("learning.between", low=percent(interval.low), high=percent(interval.high))


def _law(curve: LearningCurve, say: Messages) -> str:
    first, last = curve.points[0], curve.points[-1]
    facts = {
        "name": curve_name(curve, say),
        "smallest": f"{first.size:,}",
        "largest": f"{last.size:,}",
        "first": percent(first.cer),
        "last": percent(last.cer),
        "trained": _training(curve, say),
    }
    off = say("learning.off", sizes=say.listed([f"{size:,}" for size in curve.off])) if curve.off else ""
    if curve.is_falling is False or curve.law.scale == 0:
        return say("learning.flat", **facts) + off
    law = say("learning.law", **facts, exponent=f"{curve.law.exponent:.2f}", floor=percent(curve.law.floor))
    return law + off


def _training(curve: LearningCurve, say: Messages) -> str:
    """Optimizer steps: where all trainings have the same number, more data is not more training."""
    if curve.steps is None:
        return ""
    fewest, most = (f"{steps:,}" for steps in curve.steps)
    return say("learning.steps", n=most) if fewest == most else say("learning.steps_between", low=fewest, high=most)


def _forecasts(curve: LearningCurve, say: Messages) -> str:
    told = []
    for one in curve.forecasts:
        about = [in_percent(one.interval, say)] if one.interval else []
        about += [say("learning.far")] if one.is_far else []
        beside = say("learning.about", said=say("list.comma").join(about)) if about else ""
        told.append(say("learning.at", size=f"{one.size:,}", cer=percent(one.cer), beside=beside))
    return say("learning.forecasts", said=say("effort.join").join(told))
