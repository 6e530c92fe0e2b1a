"""The three files of a report: report.html (rendered from templates/, needs no network), trials.csv and trials.json."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from kimi_audio_ft.paths import store_root
from kimi_audio_ft.store.cache import keep, recall
from multirun_analysis import words
from multirun_analysis.analysis import Analysis, load_sweep
from multirun_analysis.charts import (
    categories,
    effects,
    heat_map,
    learning,
    losses,
    parallel,
    parameters,
    progress,
    repeats,
)
from multirun_analysis.charts.figure import Figure
from multirun_analysis.charts.short_values import adapter_names
from multirun_analysis.messages import ENGLISH, Messages, messages_in
from multirun_analysis.records import write_whole
from multirun_analysis.report.board import Board, set_table, term_table
from multirun_analysis.report.compiled import PAGE, STYLE, as_it_is, templates_in
from multirun_analysis.report.confirmed import headlines, remarks
from multirun_analysis.report.facts import config_differences, cost_facts, sweep_facts
from multirun_analysis.report.next_steps import next_steps
from multirun_analysis.report.side_by_side import side_by_side, suspects
from multirun_analysis.report.stored_combinations import combinations_shown
from multirun_analysis.report.utterances import embedded, place_of, worst_utterances
from multirun_analysis.sweep import Trial
from multirun_analysis.tables import trials_csv, trials_json

SCRIPTS = ("report.js", "utterances.js")
LIBRARIES = "window.vegaEmbed = vegaEmbed;"
SCRIPT_DIGESTS = {"1.9.0.post1": "373b1f84072b31010f15ceb787be6b415c53936411aae267c8c2b2b6ccde46e7"}
"""sha256 of the chart libraries by version of vl-convert-python; those of other versions are bundled every time."""


@dataclass(frozen=True)
class Section:
    """Charts under one heading, with a sentence that says how to read them."""

    key: str
    title: str
    note: str
    figures: list[Figure]


def render(analysis: Analysis, created: datetime, say: Messages = ENGLISH, reload: float | None = None) -> str:
    """The report as HTML; every text that comes from data is escaped by the template engine.

    Args:
        created: date and time of the report, in the reader's time zone.
        reload: seconds after which the page loads itself again; None for a sweep that has ended.
    """
    say = say.ranking_by(analysis.rank_by)
    sections = _sections(analysis, say)
    figures = [figure for section in sections for figure in section.figures]
    mistakes = worst_utterances(analysis.best.trial)
    suspected = suspects(analysis.statistics.transcripts)
    view = side_by_side(analysis, suspected, say)
    notable = [clip for clip in view.clips if clip[0] not in [one.identity for one in mistakes]] if view else []
    clips = embedded([(one.audio, one.part) for one in mistakes] + [(audio, part) for _, audio, part in notable])
    more_clips = zip([name for name, *_ in notable], clips[len(mistakes) :], strict=True)
    template = _environment(say).get_template("report.html.j2")
    return template.render(
        analysis=analysis,
        statistics=analysis.statistics,
        sweep=analysis.sweep,
        best=analysis.best,
        board=Board(analysis, say),
        combined=combinations_shown(analysis),
        headlines=headlines(analysis, say),
        remarks_on_unseen=remarks(analysis, say),
        steps=next_steps(analysis, say),
        created=f"{created:%Y-%m-%d %H:%M}",
        reload=reload,
        sections=sections,
        adapter_names=adapter_names(analysis, say),
        categories=categories.category_table(analysis, say),
        sets=set_table(analysis),
        terms=term_table(analysis),
        specs={figure.key: figure.spec for figure in figures},
        mistakes=list(zip(mistakes, clips, strict=False)),
        suspects=suspected,
        view=view,
        more_clips={name: clip.uri for name, clip in more_clips if clip.uri},
        compared_to=lambda trial: _compared_to(trial, analysis),
        facts=sweep_facts(analysis, say),
        costs=cost_facts(analysis, say),
        libraries=chart_libraries() if figures else "",
    )


def render_waiting(name: str, why: str, say: Messages, reload: float | None) -> str:
    """The page of a sweep without a finished trial; ``reload`` as in ``render``."""
    return _environment(say).get_template("waiting.html.j2").render(name=name, why=why, reload=reload)


def _sections(analysis: Analysis, say: Messages) -> list[Section]:
    """The charts; what a sweep cannot show is left out."""
    settings = [
        *parallel.parallel_figure(analysis, say),
        *parameters.parameter_figures(analysis, say),
        *heat_map.heat_map(analysis, say),
        *repeats.repeats_figure(analysis, say),
        *effects.effects_figure(analysis.statistics, say),
    ]
    note = [*parameters.parameter_note(analysis, say), *effects.effects_note(analysis.statistics, say)]
    found = [
        Section("matters", say("charts.title"), " ".join(note), settings),
        Section("progress", say("progress.title"), "", progress.progress_figures(analysis, say)),
        Section("categories", say("category.title"), "", categories.category_figure(analysis, say)),
        Section("losses", say("loss.title"), "", losses.loss_figures(analysis, say)),
    ]
    study = analysis.learning
    if study is not None:
        said = " ".join(words.learning_sentences(study, say))
        found.insert(0, Section("learning", say("learning.title"), said, learning.learning_figure(analysis, say)))
    return [section for section in found if section.figures or section.key == "learning"]


def _compared_to(trial: Trial, analysis: Analysis) -> Trial | None:
    """The trial whose config is shown beside: the recommended one; for that one, the best."""
    recommended, best = analysis.statistics.recommended, analysis.best.trial
    other = best if trial is recommended else recommended
    return None if other is trial else other


def _environment(say: Messages) -> Environment:
    environment = templates_in(PAGE)
    environment.filters |= {"percent": words.percent, "show": words.show, "duration": words.duration}
    environment.globals |= {
        "say": say,
        "words": words,
        "rate": words.rate,
        "category_name": categories.category_name,
        "config_differences": config_differences,
        "style": as_it_is(PAGE / STYLE),
        "scripts": [as_it_is(PAGE / name) for name in SCRIPTS],
        "place_of": place_of,
    }
    return environment


@cache
def chart_libraries() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script; ``</script`` inside a string would end the element.

    Bundling takes seconds, so the store keeps the script where there is one. Others may write to a store, and the
    script runs wherever the report is opened: only the very bytes that this version of vl-convert makes are used.
    """
    known = SCRIPT_DIGESTS.get(version("vl-convert-python"))
    if known is None or not store_root().is_dir():
        return Markup(_bundle())
    script = recall("report", known)
    if not isinstance(script, str) or hashlib.sha256(script.encode()).hexdigest() != known:
        script = _bundle()
        keep("report", known, script)
    return Markup(script)


def _bundle() -> str:
    import vl_convert

    return vl_convert.javascript_bundle(LIBRARIES).replace("</script", "<\\/script")


@dataclass(frozen=True)
class ReportPaths:
    """The three files of a report."""

    html: Path
    csv: Path
    json: Path

    @classmethod
    def in_folder(cls, folder: Path) -> ReportPaths:
        """Where they lie."""
        folder = folder.resolve()
        return cls(folder / "report.html", folder / "trials.csv", folder / "trials.json")


def write_report(sweep_dir: Path, out: Path | None = None, language: str = ENGLISH.language) -> ReportPaths:
    """Compare the trials in ``sweep_dir`` and write report.html, trials.csv and trials.json.

    Args:
        sweep_dir: folder of a Hydra multirun (or of a single run).
        out: folder for the three files, made when missing; ``sweep_dir`` by default.
        language: of the page's own text: "en" or "zh". The tables' keys are the same in both.

    Raises:
        UserError: as ``load_sweep``, the files cannot be written, or the language is another one.
    """
    return write_comparison(load_sweep(sweep_dir), out, language)


def write_comparison(analysis: Analysis, out: Path | None = None, language: str = ENGLISH.language) -> ReportPaths:
    """As ``write_report``, for a sweep that is already loaded."""
    say = messages_in(language)
    paths = ReportPaths.in_folder(Path(out or analysis.sweep.folder))
    created = datetime.now().astimezone()
    write_whole(paths.csv, trials_csv(analysis))
    write_whole(paths.json, trials_json(analysis, created))
    write_whole(paths.html, render(analysis, created, say))
    return paths
