"""``labels.html``: listen to the most suspicious references and decide; one file, whose decisions ``prepare`` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from multirun_analysis.labels.evidence import Utterance
from multirun_analysis.labels.signals import Ranking
from multirun_analysis.labels.surprise import parted_at
from multirun_analysis.labels.suspects import END, reasons, suspect_word
from multirun_analysis.messages import Messages
from multirun_analysis.records import write_whole
from multirun_analysis.report.compiled import PAGE, STYLE, as_it_is, templates_in
from multirun_analysis.report.utterances import EmbeddedAudio, MarkedText, embedded, mark

OWN = Path(__file__).resolve().parent / "templates"
BUDGET = 4_000_000
"""Characters of all embedded recordings: the page stays under 5 MB."""


@dataclass(frozen=True)
class Suspect:
    """One reference on the page.

    parts: what stands before the suspect word, the word, and what follows; ends: it is the end of the text.
    """

    utterance: Utterance
    parts: tuple[str, str, str]
    ends: bool
    heard: str
    heard_marked: list[MarkedText]
    reasons: list[str]
    clip: EmbeddedAudio


def write_page(ranking: Ranking, path: Path, shown: int, say: Messages) -> None:
    """Write the page with the first ``shown`` suspects.

    Raises:
        UserError: the file cannot be written.
    """
    page = (
        templates_in(OWN, PAGE)
        .get_template("labels.html.j2")
        .render(
            say=say,
            name=path.resolve().parent.name,
            suspects=_suspects(ranking, shown, say),
            total=len(ranking.order),
            adapters=len(ranking.evidence.adapters),
            style=as_it_is(PAGE / STYLE),
            script=as_it_is(OWN / "labels.js"),
        )
    )
    write_whole(path, page)


def _suspects(ranking: Ranking, shown: int, say: Messages) -> list[Suspect]:
    chosen = ranking.order[:shown]
    files = [(Path(utterance.audio) if utterance.audio else None, utterance.part) for utterance in chosen]
    return [_suspect(ranking, *one, say) for one in zip(chosen, embedded(files, BUDGET), strict=True)]


def _suspect(ranking: Ranking, utterance: Utterance, clip: EmbeddedAudio, say: Messages) -> Suspect:
    heard = ranking.heard(utterance)
    word, _ = suspect_word(ranking, utterance)
    parts = (utterance.reference, "", "")
    if utterance.id in ranking.surprises:
        parts = parted_at(utterance.reference, ranking.surprises[utterance.id])
    marked = mark(utterance.reference, heard)[1]
    return Suspect(utterance, parts, word == END, heard, marked, reasons(ranking, utterance, say), clip)
