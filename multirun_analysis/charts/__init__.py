"""The report's charts: Vega-Lite specifications made by altair from an analysis, in the reader's language."""

from multirun_analysis.charts.categories import category_figure, category_name, category_table
from multirun_analysis.charts.effects import effects_figure
from multirun_analysis.charts.figure import Figure
from multirun_analysis.charts.heat_map import heat_map
from multirun_analysis.charts.learning import learning_figure
from multirun_analysis.charts.losses import loss_figures
from multirun_analysis.charts.parallel import parallel_figure
from multirun_analysis.charts.parameters import parameter_figures, parameter_note
from multirun_analysis.charts.repeats import repeats_figure

__all__ = [
    "Figure",
    "category_figure",
    "category_name",
    "category_table",
    "effects_figure",
    "heat_map",
    "learning_figure",
    "loss_figures",
    "parallel_figure",
    "parameter_figures",
    "parameter_note",
    "repeats_figure",
]
