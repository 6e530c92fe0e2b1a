"""``python -m multirun_analysis.wandb_view ENTITY/PROJECT``: a dashboard of a project's trials, as a W&B report.

It reads what ``logger=wandb`` wrote: flat config keys, flat summaries, curves over ``step``, and two tables. Everything
in it can be moved about, filtered and grouped on the page. W&B's own library for such pages, wandb-workspaces, writes
it; nothing else of this project needs that library.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from kimi_audio_ft.config.train import RATES
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.runtime.wandb_server import described, resolve_mode, short_name
from kimi_audio_ft.scoring import CATEGORIES
from multirun_analysis.compare import LEADING_PARAMS

LOGARITHMIC = ("optim.lr",)
TRIAL_NUMBER = "trial_number"
RANKS = "rate"
"""In the summary of a trial: the error rate that ranks it, whichever it was run with."""
SUMMARY = {"cer": "cer", "normalised_cer": "cer_normalised", "mer": "mer", "wer": "wer", "pinyin": "pinyin_error_rate"}
"""Where the summary has each of ``config.train.RATES``."""
EDITS = ("substitutions", "deletions", "insertions")
COLUMNS = ("cer", "cer_ci_low", "cer_ci_high", "cer_normalised", "mer", "wer", "exact_match", *EDITS, "empty_rate")
TITLE = "Fine-tuning sweep"

_PROJECT = re.compile(r"([\w.-]+)/([\w.-]+)")
_ABOUT = (
    "One line, point or row is one trial: an adapter, under one decoding setting, scored on the evaluation set. Rates "
    "are fractions; lower is better. Trials stand in the order of the error rate that ranks them (scoring.rank_by). "
    "The report of each sweep, with its intervals and tests, is an artifact of its run of job type report."
)
# Units of a page: its width, and the height of most panels.
_WIDE, _TALL = 24, 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 for a user's error."""
    parser = argparse.ArgumentParser(
        prog="python -m multirun_analysis.wandb_view",
        description="Create a W&B report over the trials of a project: parallel coordinates, the error rate by "
        "parameter, curves, error counts and tables.",
    )
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="W&B user or team, and its project")
    parser.add_argument("--group", metavar="SWEEP", help="only this sweep: the folder that it was run in")
    parser.add_argument(
        "--params", metavar="KEYS", default=",".join(LEADING_PARAMS), help="config keys that were swept (%(default)s)"
    )
    parser.add_argument(
        "--rank-by",
        metavar="RATE",
        choices=list(SUMMARY),
        help=f"error rate that orders the trials: {', '.join(SUMMARY)} (default: the one they were run with; name it "
        "for trials that an earlier version recorded)",
    )
    parser.add_argument("--title", default=TITLE, help="title of the report (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        entity, project = split_project(options.project)
        params = [key for key in options.params.split(",") if key]
        report = build_report(entity, project, options.title, options.group, params, options.rank_by)
        print(f"dashboard: {save(report)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def split_project(name: str) -> tuple[str, str]:
    """Entity and project out of ``ENTITY/PROJECT``."""
    found = _PROJECT.fullmatch(name)
    if found is None:
        raise ConfigError("ENTITY/PROJECT", name, "must be two names with a slash between", "Write my-team/my-project")
    return found[1], found[2]


def build_report(
    entity: str, project: str, title: str, group: str | None, params: Sequence[str], rank_by: str | None = None
) -> Any:
    """The dashboard as a ``wandb_workspaces.reports.v2.Report``, made without the network.

    Args:
        group: show the trials of this sweep only; None shows those of all.
        params: flat config keys of what was swept.
        rank_by: of ``SUMMARY``: the error rate that orders trials; None: the one that each was run with.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    wr = _library()
    rate = SUMMARY[rank_by] if rank_by else RANKS
    trials = _runset(wr, "trials", "trial", group, list(dict.fromkeys([rate, "cer"])))
    reports = _runset(wr, "reports of sweeps", "report", group, ["best_rate", "best_cer"])
    return wr.Report(
        entity=entity,
        project=project,
        title=title,
        description=f"Trials of {group}" if group else "Trials of all sweeps",
        width="fluid",
        blocks=[
            wr.P(_ABOUT),
            wr.H2("Parameters and error rates"),
            wr.PanelGrid(runsets=[trials], panels=_parameter_panels(wr, params, rate, _name(rank_by))),
            wr.H2("Curves"),
            wr.PanelGrid(runsets=[trials], panels=_curve_panels(wr)),
            wr.H2("Errors"),
            wr.PanelGrid(runsets=[trials], panels=_error_panels(wr, rate)),
            wr.H2("Leaderboard and utterances"),
            wr.PanelGrid(runsets=[reports], panels=_table(wr, "leaderboard")),
            wr.PanelGrid(runsets=[trials], panels=_table(wr, "utterances")),
        ],
    )


def save(report: Any) -> str:
    """Create the report on W&B's server; returns its address.

    Raises:
        UserError: nobody is logged in, W&B is offline by ``WANDB_MODE``, or the server refuses or does not answer.
    """
    if resolve_mode("auto") != "online":
        raise UserError(
            "W&B: the dashboard is made on its server, and W&B is offline here (no login, or WANDB_MODE says so). Run "
            "`wandb login`, upload offline trials with `wandb sync SWEEP/*/wandb`, and run this command again"
        )
    try:
        report.save()
    except Exception as error:  # no narrower class holds everything that wandb and its transport raise
        project = f"{report.entity}/{report.project}"
        raise UserError(
            f"W&B: {project}: the dashboard cannot be created ({described(error)}). Check the name, your rights there "
            "and the network"
        ) from error
    return str(report.url)


def _library() -> Any:
    try:
        import wandb_workspaces.reports.v2 as library
    except ImportError as error:
        raise UserError(
            f"wandb_view: the package wandb-workspaces cannot be imported ({error}). Run `pip install "
            "wandb-workspaces`, or `pip install -e '.[dashboard]'` in a checkout"
        ) from None
    return library


def _name(rank_by: str | None) -> str:
    return RATES[rank_by] if rank_by else "error rate"


def _runset(wr: Any, name: str, job_type: str, group: str | None, rates: Sequence[str]) -> Any:
    """Runs of one kind in the report's own project, the best first by the first of ``rates`` that they have."""
    equal = {"JobType": job_type, **({"Group": short_name(group)} if group else {})}
    columns = dict.fromkeys([*rates, *COLUMNS])
    return wr.Runset(
        name=name,
        filters=" and ".join(f'Metric("{key}") == "{_escaped(value)}"' for key, value in equal.items()),
        order=[wr.OrderBy(wr.SummaryMetric(rate), ascending=True) for rate in rates],
        pinned_columns=[f"config:{TRIAL_NUMBER}.value", "run:displayName", *(f"summary:{name}" for name in columns)],
    )


def _escaped(text: str) -> str:
    """A text inside a filter. The library rewrites ``=`` and ``<`` even in there, before it reads Python's escapes."""
    return "".join(char if char.isalnum() or char in "_./-" else f"\\U{ord(char):08x}" for char in text)


def _grid(
    wr: Any, kind: Any, panels: Sequence[dict[str, Any]], columns: int = 3, top: int = 0, height: int = _TALL
) -> list[Any]:
    """Panels of one kind, laid out row by row."""
    width = _WIDE // columns
    places = [(width * (number % columns), top + height * (number // columns)) for number in range(len(panels))]
    return [kind(**one, layout=wr.Layout(*at, width, height)) for one, at in zip(panels, places, strict=True)]


def _parameter_panels(wr: Any, params: Sequence[str], rate: str, name: str) -> list[Any]:
    """Parallel coordinates over all parameters, and the error rate by each."""
    column, ranks, title = wr.ParallelCoordinatesPlotColumn, wr.SummaryMetric(rate), name[0].upper() + name[1:]
    columns = [column(wr.Config(key), display_name=key, log=key in LOGARITHMIC) for key in params]
    lines = {"title": f"Parameters to {name}", "columns": [*columns, column(ranks, display_name=name)]}
    points = [
        {"title": f"{title} by {key}", "x": wr.Config(key), "y": ranks, "log_x": key in LOGARITHMIC} for key in params
    ]
    return [
        *_grid(wr, wr.ParallelCoordinatesPlot, [lines], columns=1),
        *_grid(wr, wr.ScatterPlot, points, top=_TALL),
    ]


def _curve_panels(wr: Any) -> list[Any]:
    """Losses and learning rate over optimizer steps."""
    named = {"Training loss": "train/loss", "Validation loss": "val/loss", "Learning rate": "train/lr"}
    return _grid(wr, wr.LinePlot, [{"title": title, "x": "step", "y": [key]} for title, key in named.items()])


def _error_panels(wr: Any, rate: str) -> list[Any]:
    """Rates, and counts of edits by kind and by category, side by side for every trial."""
    by_category = [f"errors/{name}" for name in CATEGORIES]
    rates = list(dict.fromkeys([rate, "cer", "cer_normalised", "mer", "wer"]))
    named = {"Error rates": rates, "Edits": EDITS, "Edits by category": by_category}
    bars = [{"title": title, "metrics": [wr.SummaryMetric(key) for key in keys]} for title, keys in named.items()]
    return [*_grid(wr, wr.BarPlot, bars[:2], columns=2), *_grid(wr, wr.BarPlot, bars[2:], columns=1, top=_TALL)]


def _table(wr: Any, name: str) -> list[Any]:
    return _grid(wr, wr.WeavePanelSummaryTable, [{"table_name": name}], columns=1, height=2 * _TALL)


if __name__ == "__main__":
    sys.exit(main())
