"""English interface text; a text with ``||`` has a singular and a plural, chosen by its value ``n``."""

from __future__ import annotations

TEXTS = {
    # joining
    "list.comma": ", ",
    "list.and": " and ",
    # the result in one sentence, and the effort
    "base.name": "base (no adapter)",
    "base.short": "base",
    "headline.best": "Best: {name}: CER {cer}",
    "headline.one": "One setting: {name}: CER {cer}",
    "headline.no_base": (
        "{said}. The zero-shot base was not scored under this decoding, so the gain over it is unknown."
    ),
    "headline.base": "{said}, base {base}, {gain}.",
    "gain.none": "no change",
    "gain.worse": "worse: the base makes no error",
    "gain.reduction": "a relative reduction of {share}",
    "gain.increase": "a relative increase of {share}",
    "points.of": "{n} percentage points",
    "points.under": "less than {least} percentage points",
    "effort.finished": "{n} trial finished||{n} trials finished",
    "effort.failed": "{n} failed",
    "effort.unfinished": "{n} unfinished",
    "effort.not_begun": "{n} not started",
    "effort.adapters": "{n} adapter||{n} adapters",
    "effort.trained": "{n} trained in {time}",
    "effort.all_reused": "all from the store",
    "effort.reused": "{n} from the store",
    "effort.shared": "without sharing there would have been {n} training||"
    "without sharing there would have been {n} trainings",
    "effort.join": "; ",
    "effort.end": ".",
    # the head of the page
    "page.title": "Sweep {name}",
    "page.kicker": "Sweep {name} · {created}",
    "page.contents": "Sections",
    "page.noscript": "The charts need JavaScript; their figures are in the tables.",
    "tile.best": "best CER",
    "tile.interval": "95 %: {low} to {high}",
    "tile.base": "base CER",
    "tile.normalised": "best, normalised",
    "tile.exact": "exact sentences",
    "tile.references": "references",
    "tile.recordings": "in {n} recording||in {n} recordings",
    "watch.live": "The sweep is running: this page reloads itself every {seconds} s.",
    "watch.waiting": "Waiting for the first finished trial",
    "watch.counts": "{running} running, {failed} failed.",
    "watch.to_come": "{running} running, {failed} failed, {waiting} waiting for their adapters.",
    "watch.dead": "The sweep ended before any trial finished",
    # what the statistics say
    "verdict.title": "Which trial to take",
    "verdict.only": "There is one finished trial and nothing to compare it with.",
    "verdict.alone": (
        "Recommended: {name}, the best. The other trial is significantly worse.||"
        "Recommended: {name}, the best. All {n} other trials are significantly worse."
    ),
    "verdict.best_is_cheapest": (
        "Recommended: {name}, the best. One other trial ties with it and is no cheaper.||"
        "Recommended: {name}, the best. {n} other trials tie with it, and none is cheaper."
    ),
    "verdict.cheapest": "Recommended: {name} (CER {cer}), the cheapest of the {group} trials that tie for the best.",
    "verdict.too_few_recordings": (
        "Recommended: {name}, the best. The evaluation set has {n} recording, too few for intervals and tests.||"
        "Recommended: {name}, the best. The evaluation set has {n} recordings, too few for intervals and tests."
    ),
    "verdict.no_utterances": (
        "Recommended: {name}, the best. The trials' utterances.jsonl cannot be compared, so it is unknown whether "
        "others tie with it."
    ),
    "verdict.method": (
        "Two trials count as different at p < 0.05 (matched pairs over recordings). Intervals: bootstrap over "
        "{recordings} recordings ({resamples} resamples), because the segments of one recording are not independent.||"
        "Two trials count as different at p < 0.05 (matched pairs over recordings, Holm's correction over {n} pairs). "
        "Intervals: bootstrap over {recordings} recordings ({resamples} resamples), because the segments of one "
        "recording are not independent."
    ),
    "verdict.needed": (
        "To separate {first} from {second} at 95 % with power {power}, about {utterances} utterances in {recordings} "
        "recordings are needed; there are {have_utterances} in {have_recordings}."
    ),
    "verdict.needed_never": "{first} and {second} make equally many errors: no evaluation set would separate them.",
    "verdict.needed_beyond": (
        "{first} and {second} are equal for all practical purposes: their CERs differ by {difference}, and separating "
        "them would take more than {most} utterances."
    ),
    "verdict.unstated": (
        "An older version of this program scored these trials; they do not record its version of the normalisation. "
        "Re-running the same command only rescores."
    ),
    "verdict.left_out": (
        "Trial {names} was not compared: its utterances.jsonl is missing or differs.||"
        "Trials {names} were not compared: their utterances.jsonl is missing or differs."
    ),
    "verdict.beyond": "Only the {n} trials with the lowest CER were compared with each other.",
    "verdict.place": "{name} ({at})",
    "verdict.turned": (
        "One adapter overfitted: {names}.||{n} adapters overfitted (validation loss rose again): {names}."
    ),
    # the leaderboard
    "board.title": "Leaderboard",
    "board.trial": "trial",
    "board.cer": "CER %",
    "board.cer_hint": "character error rate; strict: every character counts",
    "board.interval": "95 % interval",
    "board.gain": "vs base",
    "board.gain_hint": "relative change of CER against the zero-shot base under the same decoding",
    "board.normalised": "normalised CER %",
    "board.normalised_hint": "CER after normalising numbers, case and punctuation",
    "board.wer": "WER %",
    "board.wer_hint": "word error rate",
    "board.mer": "MER %",
    "board.mer_hint": "mixed error rate: Han characters, and words of letters and digits",
    "board.exact": "exact %",
    "board.exact_hint": "sentences without any error",
    "board.edits_hint": "substituted, deleted and inserted characters",
    "board.empty": "empty",
    "board.empty_hint": "utterances with empty output",
    "board.repeats": "repeats",
    "board.repeats_hint": "standard deviation of the CER over repeated sampling, and its lowest and highest value",
    "board.repeats_told": "{n} repeats, from {low} to {high} %",
    "board.training": "training",
    "board.training_hint": "time to train the adapter, or reused from the store",
    "board.reused": "reused",
    "board.recommended": "recommended",
    "board.alike": "ties with the best",
    "board.note": (
        "Lower is better; equal CERs share a rank. Bars are CERs, whiskers their 95 % intervals. The base is the model "
        "without an adapter, decoded in the same way. Click a heading to sort."
    ),
    "board.note_alike": "≈ marks trials that tie with the best: no test separates them from it.",
    "filter.legend": "Filter",
    "filter.text": "text",
    "filter.placeholder": "words that a row must contain",
    "filter.all": "all",
    "filter.group": "Only ties with the best",
    "filter.clear": "Clear",
    "filter.count": "{shown} of {all} rows",
    # missing and stopped trials
    "missing.title": "Not finished",
    "missing.no_reason": "no cause recorded",
    "missing.not_begun": "{n} trial has not started.||{n} trials have not started.",
    "missing.again": "Re-run the same sweep command to resume it.",
    "halving.title": "Stopped early",
    "halving.step_hint": "step at which it was stopped or failed, of all its steps",
    "halving.cer_hint": "greedy character error rate at that step",
    "halving.loss_hint": "validation loss at that step",
    "halving.rank": "rank",
    "halving.rank_hint": "among the adapters compared at that step",
    "halving.why": "reason",
    "halving.when": "time",
    "halving.trials_hint": "trials that were therefore not run",
    "halving.of": "{step} of {all}",
    "halving.stopped_at": "{n} stopped at step {step}",
    "halving.none": "none stopped",
    "halving.summary": "Successive halving by {metric}: of {n} adapters, {losses}",
    "halving.saved": "{said}; {trained} of {all} steps were enough ({share} %).",
    "halving.note": (
        "Adapters were compared at the same step, after the same batches, on the same utterances. Those listed were "
        "behind at that step and are not in the leaderboard; some might have caught up later. Their checkpoints stay "
        "in the store, and a sweep that includes them resumes there."
    ),
    # worst utterances
    "worst.title": "Worst utterances of the best trial",
    "worst.marked": "Wrong characters are marked in both lines:",
    "worst.missing": "missing",
    "worst.missing_where": "in the reference,",
    "worst.added": "added",
    "worst.added_where": "in the output,",
    "worst.replaced": "replaced",
    "worst.replaced_where": "in either.",
    "worst.reference": "reference",
    "worst.output": "output",
    "worst.empty": "empty",
    "worst.cut": "… {n} more characters",
    "worst.none": "Every utterance was transcribed exactly.",
    "worst.no_file": "This trial has no utterances.jsonl.",
    "worst.play": "recording of {name}",
    "audio.missing": "the recording was not found",
    "audio.unreadable": "the recording cannot be read",
    "audio.too_long": "too long to embed",
    "audio.budget": "left out to limit the page's size",
    # every trial
    "trials.title": "Every trial",
    "trials.copy": "Copy the command",
    "trials.copied": "Copied",
    "trials.differs": "Options that differ from {name}",
    "trials.key": "option",
    "trials.here": "here",
    "trials.there": "there",
    "trials.same": "Same config as {name}.",
    "trials.signature": "adapter",
    "trials.trainable_parameters": "trainable parameters",
    "trials.final_train_loss": "last training loss",
    "trials.final_val_loss": "last validation loss",
    "trials.steps": "steps",
    "trials.pinyin_error_rate": "syllable error rate (pinyin without tones)",
    "trials.empty_rate": "Empty output",
    "trials.over_generation_rate": "Runaway output",
    "trials.training": "training time",
    "trials.decoding": "decoding time",
    "trials.git_commit": "git commit",
    "trials.eval_identity": "digest of the references",
    "trials.folder": "folder",
    "status.FAILED": "failed",
    "status.UNFINISHED": "not finished",
    # facts
    "facts.title": "Data, model and software",
    "facts.sweep": "Sweep",
    "facts.command": "Command",
    "facts.no_command": "not recorded (no multirun.yaml); see each trial's own command",
    "facts.eval_manifest": "Evaluation set",
    "facts.references": "References",
    "facts.references_value": "{references} with {chars} characters",
    "facts.recorded": "{references} with {chars} characters, in {recordings} recordings",
    "facts.eval_identity": "Digest of the references",
    "facts.normalisation": "Normalisation, version",
    "facts.scoring": "Scoring options",
    "facts.words": "{n} word||{n} words",
    "facts.unstated": "not recorded",
    "facts.model": "Model",
    "facts.git_commit": "Git commit",
    "facts.versions": "Software that wrote this report",
    "cost.title": "Time and cost",
    "cost.training": "Training",
    "cost.training_value": "{time} for {n} adapter||{time} for {n} adapters",
    "cost.none": "none: every adapter was in the store",
    "cost.alone": "Sum over the adapters",
    "cost.decoding": "Decoding and scoring",
    "cost.decoding_value": "{time} for {n} trial||{time} for {n} trials",
    "cost.saved": "Saved by sharing adapters",
    "cost.saved_value": "{time}: {n} further training||{time}: {n} further trainings",
    "cost.device_hours": "Device hours",
    "cost.device_hours_value": "{hours} h of training and decoding",
    "cost.note": "As recorded: a reused transcript or adapter counts the time that making it took.",
    # the charts
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
    "charts.title": "Effect of each parameter",
    "charts.points": "Points are trials; the best is ringed.",
    "charts.lines": (
        "Thin lines join trials that differ only in this parameter, thick lines the means of each colour; click a "
        "legend entry to show one colour alone."
    ),
    "charts.base": "The dashed line is the zero-shot base, at its lowest CER where the axis is no decoding setting.",
    "charts.no_base": "The zero-shot base was not scored in this sweep.",
    "charts.undrawn": "This chart could not be drawn:",
    "charts.actions": "Save this chart",
    "charts.png": "Save as PNG",
    "charts.svg": "Save as SVG",
    "charts.best_trial": "best trial",
    "charts.normalised": "normalised CER",
    "charts.base_word": "base {cer}",
    "parameter.title": "CER against {param}",
    "parameter.axis": "{name} ({key})",
    "parameter.means": "Mean CER over the trials: {said}.",
    "parameter.mean": "{cer} at {value}",
    "parameter.values": "{n} values of {param}.",
    "heat.title": "LoRA rank by learning rate",
    "heat.caption": "Lowest CER (%) of each pair; stronger colours are better.",
    "heat.caption_over": "Lowest CER (%) of each pair over {others}; stronger colours are better.",
    "parallel.title": "All trials",
    "parallel.caption": (
        "One line per trial from its settings to its CER; stronger lines are better. The leaderboard's filters apply "
        "here too; click a line to find its row there."
    ),
    "repeats.title": "Repeated sampling at each temperature",
    "repeats.caption": (
        "Dots are repeats, lines the means of each adapter; the band is one standard deviation around the best trial's "
        "adapter. Greedy decoding (0.0) has one outcome."
    ),
    "repeats.repeat": "repeat",
    "repeats.mean": "mean",
    "repeats.std": "standard deviation",
    "effects.title": "Main effects",
    "effects.axis": "change of CER against the mean of all trials (percentage points)",
    "effects.caption": (
        "Left of the line is better. Whiskers: 95 % intervals over recordings; they leave out the variance of seeds."
    ),
    "effects.additive": "Trials are missing from the grid: effects are those of an additive fit.",
    "effects.confounded": "The missing trials confound {params} with another parameter: read with care.",
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
    "terms.note": "Recall and precision of each term under two trials of your choice.",
    "terms.choose": "Trials",
    "terms.second": "compared with",
    "terms.table": "Recall and precision of every term",
    "terms.more_terms": "{n} further term is in trials.json.||{n} further terms are in trials.json.",
    "terms.more_trials": "{n} further trial is in trials.json.||{n} further trials are in trials.json.",
    "terms.term": "term",
    "terms.spoken": "times in the references",
    "terms.recall": "recall %",
    "terms.recall_hint": "share of its occurrences in the references that the output has",
    "terms.precision": "precision %",
    "terms.precision_hint": "share of its occurrences in the output that the references have",
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
    "loss.caption": "One line per adapter ({n}); click a legend entry to show it alone.",
    "loss.one": "One adapter.||{n} adapters.",
    "loss.marked": "Rings: the lowest validation loss before it rose again; later steps overfit.",
    "overfit.title": "Overfitting",
    "overfit.verdict": "verdict",
    "overfit.none": "no overfitting",
    "overfit.turned": "overfitting: validation loss rises after {at}",
    "overfit.gap": "validation loss far above the training loss",
    "overfit.unknown": "too few validation points",
    "overfit.epoch": "epoch {n}",
    "overfit.step": "step {n}",
    "overfit.lowest": "lowest validation loss",
    "overfit.at": "at",
    "overfit.distance": "above training",
    "overfit.distance_hint": "last validation loss minus the training loss around it",
    # the learning curve over training-set sizes
    "learning.title": "Learning curve",
    "learning.chart": "CER against the size of the training set",
    "learning.caption": (
        "Filled points are trials, hollow points forecasts; the band is the 95 % interval of the fitted power law over "
        "recordings (and seeds, where a size has several)."
    ),
    "learning.refused": "There are too few sizes for a learning curve: train with at least three values of {param}.",
    "learning.one": "all trials",
    "learning.law": (
        "{name}: CER {first} at {smallest} conversations, {last} at {largest}{trained}, falling as n^-{exponent} "
        "towards {floor}."
    ),
    "learning.flat": (
        "{name}: CER {first} at {smallest} conversations, {last} at {largest}{trained}; this evaluation set shows no "
        "effect of more data."
    ),
    "learning.off": (
        " The CER at {sizes} is off this curve by more than chance: treat the forecasts as guesses, and train those "
        "sizes with other seeds."
    ),
    "learning.told": "Learning curve, {said}",
    "learning.steps": " ({n} steps each)",
    "learning.steps_between": " ({low} to {high} steps)",
    "learning.forecasts": "Forecast for more conversations: {said}.",
    "learning.at": "{cer} at {size}{beside}",
    "learning.about": " ({said})",
    "learning.between": "{low} to {high}",
    "learning.forecast": "forecast",
    "learning.far": "a guess: far outside the measured sizes",
}
