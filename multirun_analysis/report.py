"""report.html: the whole sweep in one file that needs neither network nor server."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from altair.utils.schemapi import debug_mode
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import store_root
from multirun_analysis import words
from multirun_analysis.collect import Trial, collect
from multirun_analysis.compare import Comparison, compare, distinct, value_of
from multirun_analysis.curves import loss_figures
from multirun_analysis.differences import worst_utterances
from multirun_analysis.plots import parameter_figures
from multirun_analysis.records import write_whole
from multirun_analysis.tables import trials_csv, trials_json

TEMPLATES = Path(__file__).resolve().parent / "templates"
PACKAGES = ("kimi-audio-ft", "torch", "transformers", "peft", "lightning", "hydra-core", "altair", "vl-convert-python")

LIBRARIES = "window.vegaEmbed = vegaEmbed;"


@dataclass(frozen=True)
class ReportPaths:
    """The three files of a report."""

    html: Path
    csv: Path
    json: Path


def load_sweep(sweep_dir: Path) -> Comparison:
    """Read and compare the trials in ``sweep_dir``.

    Raises:
        UserError: no such folder, no trial or no finished trial in it, a record that cannot be read, or trials that
            were scored on different reference sets.
    """
    return compare(collect(Path(sweep_dir)))


def write_report(sweep_dir: Path, out: Path | None = None) -> ReportPaths:
    """Compare the trials in ``sweep_dir`` and write report.html, trials.csv and trials.json.

    Args:
        sweep_dir: folder of a Hydra multirun (or of a single run).
        out: folder for the three files, made when missing; ``sweep_dir`` by default.

    Raises:
        UserError: as ``load_sweep``, or the files cannot be written.
    """
    return write_comparison(load_sweep(sweep_dir), out)


def write_comparison(comparison: Comparison, out: Path | None = None) -> ReportPaths:
    """As ``write_report``, for a sweep that is already loaded."""
    folder = Path(out or comparison.sweep.folder).resolve()
    paths = ReportPaths(folder / "report.html", folder / "trials.csv", folder / "trials.json")
    created = datetime.now().astimezone()
    write_whole(paths.csv, trials_csv(comparison, created))
    write_whole(paths.json, trials_json(comparison, created))
    write_whole(paths.html, render(comparison, created))
    return paths


def render(comparison: Comparison, created: datetime) -> str:
    """The report as HTML; every text that comes from data is escaped by the template engine."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": words.percent, "show": words.show, "duration": words.duration}
    environment.globals |= {"value_of": value_of, "words": words}
    with debug_mode(False):  # checking charts against Vega-Lite's schema takes most of their time; the tests do it
        figures, losses = parameter_figures(comparison), loss_figures(comparison)
    return environment.get_template("report.html.j2").render(
        comparison=comparison,
        sweep=comparison.sweep,
        best=comparison.best,
        created=f"{created:%Y-%m-%d %H:%M}",
        figures=figures,
        losses=losses,
        specs={figure.key: figure.spec for figure in (*figures, *losses)},
        mistakes=worst_utterances(comparison.best.trial),
        highest_cer=max(row.trial.cer for row in comparison.rows) or 1.0,
        has_repeats=any(len(row.trial.record.get("cer_repeats") or []) > 1 for row in comparison.rows),
        facts=_facts(comparison),
        style=_text("report.css"),
        script=_text("report.js"),
        libraries=_chart_libraries() if figures or losses else "",
    )


def _text(name: str) -> Markup:
    """One of our own files, trusted as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


@cache
def _chart_libraries() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script; ``</script`` inside a string would end the element.

    Bundling takes seconds, so the store keeps the script where there is one.
    """
    kept = store_root() / "report" / f"charts-{version('vl-convert-python')}.js"
    if kept.is_file():
        return Markup(kept.read_text(encoding="utf-8"))
    import vl_convert

    script = vl_convert.javascript_bundle(LIBRARIES).replace("</script", "<\\/script")
    if store_root().is_dir():
        with suppress(UserError):  # it only saves time
            write_whole(kept, script)
    return Markup(script)


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    """What one needs to know to trust or to repeat the sweep."""
    sweep, on = comparison.sweep, comparison.reference_set
    facts = [
        ("Sweep", str(sweep.folder.resolve())),
        ("Command", sweep.command or "not recorded (no multirun.yaml); see each trial's own command"),
        ("Evaluation set", words.show(on["eval_manifest"])),
        ("References", f"{words.show(on['num_references'])} with {words.show(on['num_reference_chars'])} characters"),
        ("Identity of the references", words.show(on["eval_identity"])),
        ("Model", _all(sweep.finished, "model")),
        ("Git commit", _all(sweep.finished, "git_commit")),
    ]
    return [*facts, ("Versions, where this report was written", _versions())]


def _all(trials: list[Trial], key: str) -> str:
    return ", ".join(words.show(value) for value in distinct([trial.record.get(key) for trial in trials]))


def _versions() -> str:
    """Of installed packages, by their metadata: nothing is imported for it."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
