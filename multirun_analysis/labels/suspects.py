"""Suspects as a CSV for manual review, and a short summary in the terminal."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kimi_audio_ft.text import no_formula, printable
from multirun_analysis.labels.evidence import Utterance
from multirun_analysis.labels.signals import Ranking, plain
from multirun_analysis.labels.surprise import heard_at, parted_at
from multirun_analysis.messages import ENGLISH, Messages
from multirun_analysis.records import write_whole

COLUMNS = (
    *("rank", "id", "audio", "start", "end", "channel", "recording", "seconds"),
    *("reference", "best_hypothesis", "score", "reasons"),
    *("loss", "disagreement", "chars_per_second", "same_audio_as", "line"),
    *("suspect_word", "heard_word", "surprise", "decision", "correction"),
)
END = "(end)"
"""Stands for the suspect word where a text ends too early."""
HIGH = 0.9
"""Percentile from which a sign is named among the reasons, also beside a stronger one."""
SHOWN = 10


def write_suspects(ranking: Ranking, path: Path, most: int = 0) -> int:
    """Write the ``most`` suspicious references (0: all) as a CSV, the worst first; returns their number.

    Starts with a byte order mark, because Excel misreads Chinese without one.

    Raises:
        UserError: the file cannot be written.
    """
    chosen = ranking.order[:most] if most else ranking.order
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for rank, utterance in enumerate(chosen, start=1):
        row = _row(ranking, utterance, rank)
        writer.writerow({name: _cell(row.get(name)) for name in COLUMNS})
    write_whole(path, "\ufeff" + text.getvalue())
    return len(chosen)


def print_summary(ranking: Ranking, path: Path, written: int, console: Console | None = None) -> None:
    """Print the inputs, the first suspects, and the path of the CSV."""
    console = console or Console()
    adapters = len(ranking.evidence.adapters)
    console.print(
        f"{len(ranking.order)} references, {adapters} adapter{'' if adapters == 1 else 's'}; "
        f"signs: {', '.join([*ranking.signs, 'same audio'])}"
    )
    for note in ranking.notes:
        console.print(Text(printable(f"note: {note}"), style="dim"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("#", "reference", "best hypothesis", "why"):
        table.add_column(heading, overflow="fold")
    for rank, utterance in enumerate(ranking.order[:SHOWN], start=1):
        heard = ranking.heard(utterance)
        cells = (str(rank), utterance.reference, heard, "; ".join(reasons(ranking, utterance)))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)
    console.print(Text(printable(f"the {written} most suspicious references: {path}")), soft_wrap=True)


def reasons(ranking: Ranking, utterance: Utterance, say: Messages = ENGLISH) -> list[str]:
    """Reasons for suspecting a reference, as text; without outstanding signs, the strongest one."""
    values = ranking.values[utterance.id]
    # 0 or less is no sign of the others.
    told = [sign for sign in ranking.signs if sign in ("surprise", "loss") or values[sign] > 0]
    known = [value for sign in told if (value := values[f"{sign}_percentile"]) == value]
    high = min(HIGH, max(known, default=HIGH))
    said = []
    if not plain(utterance.reference):
        said.append(say("reason.no_text"))
    other = ranking.other_text.get(utterance.id)
    if other is not None:
        said.append(say("reason.same_audio", id=other.id, text=repr(other.reference)))
    if values["surprise_percentile"] >= high:
        said.append(_surprise(ranking, utterance, say))
    if values["disagreement_percentile"] >= high and values["disagreement"] > 0:
        said.append(_disagreement(utterance, ranking.heard(utterance), say))
    if values["loss_percentile"] >= high:
        said.append(say("reason.loss", loss=f"{values['loss']:.2f}", share=f"{values['loss_percentile']:.1%}"))
    if values["speed"] > 0:
        low, high = ranking.usual_speed[values["script"]]
        speeds = {"speed": values["chars_per_second"], "low": low, "high": high}
        script = say(f"script.{values['script'] or 'none'}")
        said.append(say("reason.speed", script=script, **{name: f"{speed:.1f}" for name, speed in speeds.items()}))
    return said


def suspect_word(ranking: Ranking, utterance: Utterance) -> tuple[str, str]:
    """The most surprising word of a reference, and what the best hypothesis has there; empty without token losses."""
    surprise = ranking.surprises.get(utterance.id)
    if surprise is None:
        return "", ""
    heard = ranking.heard(utterance)
    return parted_at(utterance.reference, surprise)[1] or END, heard_at(utterance.reference, heard, surprise)


def _surprise(ranking: Ranking, utterance: Utterance, say: Messages) -> str:
    word, heard = suspect_word(ranking, utterance)
    times = f"{ranking.surprises[utterance.id].times:.0f}"
    if word == END:
        beside = say("reason.heard_then", heard=repr(heard)) if heard else ""
        return say("reason.ends", times=times) + beside
    beside = say("reason.heard_there", heard=repr(heard)) if heard and heard != word else ""
    return say("reason.word", word=repr(word), times=times) + beside


def _disagreement(utterance: Utterance, best: str, say: Messages) -> str:
    heard = plain(best)
    same = sum(plain(vote) == heard for vote in utterance.votes.values())
    edits = Levenshtein.distance(heard, plain(utterance.reference))
    length = max(len(heard), len(plain(utterance.reference)))
    return say("reason.disagree", same=same, of=len(utterance.votes), edits=edits, length=length)


def _row(ranking: Ranking, utterance: Utterance, rank: int) -> dict[str, Any]:
    other = ranking.other_text.get(utterance.id)
    word, heard = suspect_word(ranking, utterance)
    return {
        "rank": rank,
        **{name: getattr(utterance, name) for name in ("id", "audio", "recording", "reference", "line")},
        **utterance.part.fields(),
        **ranking.values[utterance.id],
        "best_hypothesis": ranking.heard(utterance),
        "reasons": "; ".join(reasons(ranking, utterance)),
        "same_audio_as": other.id if other is not None else None,
        "suspect_word": word,
        "heard_word": heard,
    }


def _cell(value: Any) -> Any:
    """Numbers to four decimals, unknown values empty."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.4f}"
    return "" if value is None else no_formula(value)
