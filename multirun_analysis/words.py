"""How values, settings and results are put into words; the same in the terminal, the tables and the report.

Sentences are English unless another language's messages are given.
"""

from __future__ import annotations

from typing import Any

from kimi_audio_ft.text import duration
from multirun_analysis.collect import Trial
from multirun_analysis.compare import Adapter, Comparison, Row, is_of_base, value_of
from multirun_analysis.messages import ENGLISH, Messages

BASE_NAME = ENGLISH("base.name")
FEW = 100  # below this a mean count is told with its tenths


def param_name(param: str, say: Messages = ENGLISH) -> str:
    """A parameter's name in plain words; its config key when there is none."""
    return say.get(f"param.{param}", param)


def short_key(param: str) -> str:
    """The config key without the ``decoding.text_`` or ``data.`` that says nothing here."""
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
    return str(value)


def shown(param: str, value: Any, say: Messages = ENGLISH) -> str:
    """A parameter's value; where it was left open, what that means."""
    return say.get(f"open.{param}", show(value)) if value is None else show(value)


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a percentage; a dash when unknown."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f} %"


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
    """A count, or a mean of counts over repeats, to the precision that tells something; a dash when unknown."""
    if number is None:
        return "–"
    return f"{number:.0f}" if number >= FEW else f"{number:.1f}".removesuffix(".0")


def setting(trial: Trial, params: list[str], say: Messages = ENGLISH) -> str:
    """The values that tell ``trial`` from its siblings, for example ``lora.r=8 optim.lr=0.001 temperature=0.3``."""
    return " ".join(f"{short_key(param)}={shown(param, value_of(trial, param), say)}" for param in params)


def trial_title(trial: Trial, swept: list[str], say: Messages = ENGLISH) -> str:
    """A trial or a base named by what differs from its siblings."""
    if not trial.is_base:
        return setting(trial, swept, say) or trial.label
    asked = setting(trial, [param for param in swept if is_of_base(param)], say)
    return f"{say('base.name')} {asked}".strip()


def adapter_name(adapter: Adapter, comparison: Comparison, say: Messages = ENGLISH) -> str:
    """An adapter named by what its training differs in from its siblings'."""
    trained = [param for param in comparison.swept if not param.startswith("decoding")]
    return setting(adapter.source, trained, say) or say("loss.adapter")


def training_time(trial: Trial, say: Messages = ENGLISH) -> str:
    """What the adapter cost this trial: a duration, or that it came from the store."""
    if trial.is_base:
        return "–"
    return say("board.reused") if trial.record.get("train_reused") else duration(trial.record.get("train_seconds"))


def headline(comparison: Comparison, say: Messages = ENGLISH) -> str:
    """The sweep's result in one sentence."""
    best = comparison.best
    name, key = setting(best.trial, comparison.swept, say), "headline.best"
    if not name:
        name, key = best.trial.label, "headline.one"
    said = say(key, name=name, cer=percent(best.trial.cer))
    if best.base is None:
        return say("headline.no_base", said=said)
    return say("headline.base", said=said, base=percent(best.base.cer), gain=_gain_in_words(best, say))


def _gain_in_words(best: Row, say: Messages) -> str:
    if best.gain is None:  # nothing to divide by
        return say("gain.worse" if best.trial.cer else "gain.none")
    if not best.gain:
        return say("gain.none")
    share = percent(abs(best.gain), 0 if abs(best.gain) >= 0.01 else 2)
    return say("gain.reduction" if best.gain > 0 else "gain.increase", share=share)


def effort(comparison: Comparison, say: Messages = ENGLISH) -> str:
    """How many trials and adapters there are, what the training took, and what sharing adapters saved."""
    sweep, comma = comparison.sweep, say("list.comma")
    counts = {"finished": sweep.finished, "failed": sweep.failed, "unfinished": sweep.unfinished}
    trials = [say(f"effort.{how}", n=len(some)) for how, some in counts.items() if some]
    trials += [say("effort.not_begun", n=sweep.not_begun)] if sweep.not_begun else []
    adapters = comparison.adapters
    trained = [adapter.train_seconds for adapter in adapters if adapter.train_seconds is not None]
    spent = sum(trained) if sweep.fitting_seconds is None else sweep.fitting_seconds
    reused = len(adapters) - len(trained)
    fitted = [say("effort.adapters", n=len(adapters))]
    fitted += [say("effort.trained", n=len(trained), time=duration(spent)) if trained else say("effort.all_reused")]
    fitted += [say("effort.reused", n=reused)] if trained and reused else []
    parts = [comma.join(trials), comma.join(fitted)]
    if len(trained) < len(sweep.finished):
        parts.append(say("effort.shared", n=len(sweep.finished)))
    return say("effort.join").join(parts) + say("effort.end")
