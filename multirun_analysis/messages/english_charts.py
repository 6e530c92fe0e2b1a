"""English text of the charts and what is beside them: parameters, kinds of errors, overfitting."""

from __future__ import annotations

TEXTS = {
    # parameters in plain words
    "param.lora.r": "LoRA rank",
    "param.lora.lora_alpha": "LoRA alpha",
    "param.optim.lr": "learning rate",
    "param.decoding.text_temperature": "text temperature",
    "param.decoding.text_top_k": "top-k",
    "param.data.train_manifest": "training data",
    "param.data.prompt": "prompt",
    "param.seed": "seed",
    "open.data.train_subset": "all",
    "open.data.prompt": "the manifest's",
    "param.prompt": "prompt",
    "param.augment": "augmentation",
    "param.data.train_subset": "training conversations",
    "param.data.train_subset_seed": "seed of the training subset",
    # charts
    "charts.title": "What matters",
    "charts.points": "Points are trials, the best one ringed.",
    "charts.lines": (
        "Thin lines join trials that differ in nothing else, thick lines the means of each colour; a click in a "
        "legend shows one colour alone."
    ),
    "charts.base": "Dashed is the zero-shot base, at its lowest CER where decoding is not the axis.",
    "charts.no_base": "The zero-shot base was not scored in this sweep.",
    "charts.undrawn": "This chart could not be drawn:",
    "charts.actions": "Save this chart",
    "charts.png": "Save as PNG",
    "charts.svg": "Save as SVG",
    "charts.trial": "trial",
    "charts.best_trial": "best trial",
    "charts.normalised": "normalised CER",
    "charts.base_word": "base {cer}",
    "parameter.title": "CER against {param}",
    "parameter.axis": "{name} ({key})",
    "parameter.means": "Mean CER over the trials: {said}.",
    "parameter.mean": "{cer} at {value}",
    "parameter.values": "{n} values of {param}.",
    "heat.title": "LoRA rank and learning rate together",
    "heat.caption": "The lowest CER (%) of each pair; the stronger the colour, the better.",
    "heat.caption_over": "The lowest CER (%) of each pair, over every {others}; the stronger the colour, the better.",
    "parallel.title": "All trials at once",
    "parallel.caption": (
        "One line per trial, from its settings to its CER; the stronger the line, the better. The filters of the "
        "leaderboard also apply here, and a click on a line shows its row there."
    ),
    "repeats.title": "Repeated sampling at each temperature",
    "repeats.caption": (
        "Each dot is one repeat, each line the mean of an adapter's repeats; the band is one standard deviation "
        "either side, of the adapter of the best trial. Greedy decoding (0.0) has one outcome."
    ),
    "repeats.repeat": "repeat",
    "repeats.mean": "mean",
    "repeats.std": "standard deviation",
    "repeats.adapter": "adapter",
    "effects.title": "Main effects",
    "effects.axis": "change of CER against the mean of all trials (percentage points)",
    "effects.caption": "Left of the line is better. Whiskers are 95 % intervals over recordings, not over seeds.",
    "effects.additive": "Trials are missing from the grid: the effects are those of an additive fit.",
    "effects.confounded": "The missing trials leave {params} inseparable from another parameter: read with care.",
    "effects.value": "value",
    "effects.effect": "effect",
    "effects.count": "trials",
    "effects.table": "Main effects, as numbers",
    # categories of errors
    "category.title": "Kinds of errors",
    "category.axis": "errors per 100 reference characters",
    "category.caption": (
        "Each edit has one category; the bar's length is the CER. The best trials, the recommended one and the base."
    ),
    "category.share": "share of the errors",
    "category.edits": "errors",
    "category.name": "category",
    "category.table": "Errors by category, as numbers",
    "terms.title": "Your terms",
    "terms.note": "How often each term was heard: two trials side by side, which you choose.",
    "terms.choose": "Trials",
    "terms.first": "trial",
    "terms.second": "beside it",
    "terms.table": "Recall and precision of every term",
    "terms.more_terms": "{n} further term is in trials.json.||{n} further terms are in trials.json.",
    "terms.more_trials": "{n} further trial is in trials.json.||{n} further trials are in trials.json.",
    "terms.term": "term",
    "terms.spoken": "times in the references",
    "terms.recall": "recall %",
    "terms.recall_hint": "of the times it was said, how often it was written",
    "terms.precision": "precision %",
    "terms.precision_hint": "of the times it was written, how often it was said",
    "category.punctuation": "punctuation",
    "category.person_name": "person names",
    "category.domain_term": "domain terms",
    "category.abbreviation": "abbreviations, code-switching",
    "category.number_format": "number format (same value)",
    "category.number_value": "number value",
    "category.filler": "filler words",
    "category.homophone_same_tone": "homophones, same tone",
    "category.homophone_other_tone": "homophones, other tone",
    "category.other": "other",
    # loss curves
    "loss.title": "Loss curves",
    "loss.train": "Training loss",
    "loss.val": "Validation loss",
    "loss.step": "step",
    "loss.loss": "loss",
    "loss.adapter": "adapter",
    "loss.caption": "One line per adapter ({n}); a click on a name in the legend shows it alone.",
    "loss.one": "One adapter.||{n} adapters.",
    "loss.marked": "A ringed point is where a validation loss was lowest before it rose again: overfitting from there.",
    "overfit.title": "Overfitting",
    "overfit.verdict": "verdict",
    "overfit.none": "not overfitted",
    "overfit.turned": "overfitted: validation turned at {at}",
    "overfit.gap": "validation loss far above the training loss",
    "overfit.unknown": "too few validation points to tell",
    "overfit.epoch": "epoch {n}",
    "overfit.step": "step {n}",
    "overfit.lowest": "lowest validation loss",
    "overfit.at": "at",
    "overfit.final": "last validation loss",
    "overfit.distance": "above training",
    "overfit.distance_hint": "last validation loss minus the training loss around it",
    # the learning curve over training-set sizes
    "learning.title": "Learning curve",
    "learning.chart": "CER against the size of the training set",
    "learning.caption": (
        "Filled points are trials, hollow ones forecasts; the band is the 95 % interval of the fitted power law over "
        "recordings (and seeds, where a size was trained with several)."
    ),
    "learning.refused": "There are too few sizes for a learning curve: train with at least three values of {param}.",
    "learning.one": "all trials",
    "learning.law": (
        "{name}: CER {first} at {smallest} conversations, {last} at {largest}{trained}, falling as n^-{exponent} "
        "towards {floor}."
    ),
    "learning.flat": (
        "{name}: CER {first} at {smallest} conversations, {last} at {largest}{trained}; more data has no effect "
        "that this evaluation set could show."
    ),
    "learning.off": (
        " The CER at {sizes} is off this curve by more than chance: take the forecasts for guesses, and train those "
        "sizes with other seeds."
    ),
    "learning.told": "Learning curve, {said}",
    "learning.steps": " ({n} steps each)",
    "learning.steps_between": " ({low} to {high} steps)",
    "learning.forecasts": "Forecast for more conversations: {said}.",
    "learning.at": "{cer} at {size}{beside}",
    "learning.about": " ({said})",
    "learning.join": "; ",
    "learning.size": "training conversations",
    "learning.between": "{low} to {high}",
    "learning.forecast": "forecast",
    "learning.far": "a guess: far beyond what was measured",
}
