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
    "gain.worse": "worse, for the base makes no error",
    "gain.reduction": "a relative reduction of {share}",
    "gain.increase": "a relative increase of {share}",
    "points.of": "{n} percentage points",
    "points.under": "less than {least} percentage points",
    "effort.finished": "{n} trial finished||{n} trials finished",
    "effort.failed": "{n} failed",
    "effort.unfinished": "{n} unfinished",
    "effort.not_begun": "{n} not begun",
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
    "page.missing": "What is missing",
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
    "watch.counts": "{running} under way, {failed} failed.",
    "watch.to_come": (
        "{running} under way, {failed} failed, {waiting} to come. A trial begins when its adapter is there."
    ),
    "watch.dead": "The sweep ended before a trial was finished",
    # what the statistics say
    "verdict.title": "Which trial to take",
    "verdict.only": "There is one finished trial, so nothing to compare it with.",
    "verdict.alone": (
        "Recommended: {name}, the best one. The other trial is significantly worse.||"
        "Recommended: {name}, the best one. All {n} other trials are significantly worse."
    ),
    "verdict.best_is_cheapest": (
        "Recommended: {name}, the best one. One other trial cannot be told apart from it, and it is no cheaper.||"
        "Recommended: {name}, the best one. {n} other trials cannot be told apart from it, and none is cheaper."
    ),
    "verdict.cheapest": (
        "Recommended: {name} (CER {cer}). It is the cheapest of {group} trials that cannot be told apart from the best."
    ),
    "verdict.too_few_recordings": (
        "Recommended: {name}, the best one. The evaluation set has {n} recording: too few for intervals, or to say "
        "whether another trial is as good.||"
        "Recommended: {name}, the best one. The evaluation set has {n} recordings: too few for intervals, or to say "
        "whether another trial is as good."
    ),
    "verdict.no_utterances": (
        "Recommended: {name}, the best one. Whether another trial is as good is unknown: the trials' utterances.jsonl "
        "cannot be compared."
    ),
    "verdict.method": (
        "Two trials differ when a matched-pairs test over recordings finds less than 5 % chance. Intervals are of a "
        "bootstrap over {recordings} recordings ({resamples} resamples), for the segments of one recording are not "
        "independent.||"
        "Two trials differ when a matched-pairs test over recordings finds less than 5 % chance after Holm's "
        "correction over all {n} pairs. Intervals are of a bootstrap over {recordings} recordings "
        "({resamples} resamples), for the segments of one recording are not independent."
    ),
    "verdict.needed": (
        "To tell {first} and {second} apart at 95 % with power {power}, about {utterances} utterances in "
        "{recordings} recordings are needed; there are {have_utterances} in {have_recordings}."
    ),
    "verdict.needed_never": ("{first} and {second} make equally many errors: no evaluation set would tell them apart."),
    "verdict.needed_beyond": (
        "{first} and {second} are equal for all practical purposes: their CERs differ by {difference} here, and no "
        "test set that one can record would tell them apart (it would need more than {most} utterances)."
    ),
    "verdict.unstated": (
        "These trials do not record by which version of the normalisation they were scored: an older version of this "
        "program made them. The same command again scores them anew, and neither trains nor decodes."
    ),
    "verdict.left_out": (
        "Trial {names} was not compared: its utterances.jsonl is missing or differs.||"
        "Trials {names} were not compared: their utterances.jsonl is missing or differs."
    ),
    "verdict.beyond": "Only the {n} trials with the lowest CER were compared with each other.",
    "verdict.place": "{name} ({at})",
    "verdict.turned": (
        "One adapter overfitted: {names}.||{n} adapters overfitted, their validation loss turned: {names}."
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
    "board.empty_hint": "utterances for which nothing was written",
    "board.repeats": "repeats",
    "board.repeats_hint": "standard deviation of the CER over repeated sampling, and its lowest and highest value",
    "board.repeats_told": "{n} repeats, from {low} to {high} %",
    "board.training": "training",
    "board.training_hint": "time to train the adapter, or reused from the store",
    "board.reused": "reused",
    "board.recommended": "recommended",
    "board.alike": "cannot be told apart from the best",
    "board.note": (
        "Lower is better; equal CERs share a rank. Bars are CERs, the whisker on each is its 95 % interval. The base "
        "is the model without an adapter, decoded in the same way. A heading sorts."
    ),
    "board.note_alike": "≈ marks the trials that cannot be told apart from the best.",
    "filter.legend": "Filter",
    "filter.text": "text",
    "filter.placeholder": "words that a row must contain",
    "filter.all": "all",
    "filter.group": "only those like the best",
    "filter.clear": "Clear",
    "filter.count": "{shown} of {all} rows",
    # missing and stopped trials
    "missing.title": "Not finished",
    "missing.failed": "failed",
    "missing.unfinished": "not finished",
    "missing.no_reason": "no reason recorded",
    "missing.not_begun": "{n} trial was not begun.||{n} trials were not begun.",
    "missing.again": "The same sweep command goes on where it stopped.",
    "halving.title": "Stopped early",
    "halving.step": "step",
    "halving.step_hint": "step at which it was stopped or failed, of all its steps",
    "halving.cer_hint": "greedy character error rate at that step",
    "halving.loss": "loss",
    "halving.loss_hint": "validation loss at that step",
    "halving.rank": "rank",
    "halving.rank_hint": "among the adapters compared at that step",
    "halving.why": "why",
    "halving.when": "when",
    "halving.trials": "trials",
    "halving.trials_hint": "trials that were not run",
    "halving.of": "{step} of {all}",
    "halving.stopped_at": "{n} stopped at step {step}",
    "halving.failed": "{n} failed",
    "halving.none": "none stopped",
    "halving.summary": "Successive halving by {metric}: of {n} adapters, {losses}",
    "halving.saved": "{said}; {trained} of {all} steps were enough ({share} %).",
    "halving.note": (
        "Adapters were compared at the same step, having seen the same batches, by the same utterances. Those listed "
        "were behind at that moment and are not in the leaderboard; with more steps some might have caught up. Their "
        "checkpoints are kept in the store, so a sweep that wants them goes on from there."
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
    "audio.too_long": "too long to be put into this page",
    "audio.budget": "left out to keep this page small",
    # every trial
    "trials.title": "Every trial",
    "trials.copy": "Copy the command",
    "trials.copied": "Copied",
    "trials.differs": "What differs from {name}",
    "trials.key": "option",
    "trials.here": "here",
    "trials.there": "there",
    "trials.same": "Its whole config is that of {name}.",
    "trials.signature": "adapter",
    "trials.trainable_parameters": "trainable parameters",
    "trials.final_train_loss": "last training loss",
    "trials.final_val_loss": "last validation loss",
    "trials.steps": "steps",
    "trials.pinyin_error_rate": "error rate of syllables (pinyin without tones)",
    "trials.empty_rate": "nothing was written",
    "trials.over_generation_rate": "far too much was written",
    "trials.training": "training took",
    "trials.decoding": "decoding took",
    "trials.git_commit": "git commit",
    "trials.eval_identity": "identity of the references",
    "trials.folder": "folder",
    "status.FAILED": "failed",
    "status.UNFINISHED": "unfinished",
    # facts
    "facts.title": "Data, model and software",
    "facts.sweep": "Sweep",
    "facts.command": "Command",
    "facts.no_command": "not recorded (no multirun.yaml); see each trial's own command",
    "facts.eval_manifest": "Evaluation set",
    "facts.references": "References",
    "facts.references_value": "{references} with {chars} characters",
    "facts.recorded": "{references} with {chars} characters, in {recordings} recordings",
    "facts.eval_identity": "Identity of the references",
    "facts.normalisation": "Normalisation, version",
    "facts.scoring": "Scoring options",
    "facts.words": "{n} word||{n} words",
    "facts.unstated": "not recorded",
    "facts.model": "Model",
    "facts.git_commit": "Git commit",
    "facts.versions": "Versions, where this report was written",
    "cost.title": "Time and cost",
    "cost.training": "Training",
    "cost.training_value": "{time} for {n} adapter||{time} for {n} adapters",
    "cost.none": "nothing was trained: every adapter was in the store",
    "cost.alone": "Sum of the adapters' own times",
    "cost.decoding": "Decoding and scoring",
    "cost.decoding_value": "{time} for {n} trial||{time} for {n} trials",
    "cost.saved": "Saved by sharing adapters",
    "cost.saved_value": "{time}: {n} further training||{time}: {n} further trainings",
    "cost.device_hours": "Device hours",
    "cost.device_hours_value": "{hours} h of training and decoding",
    "cost.note": "As recorded: a trial that reused a transcript or an adapter counts what making it once took.",
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
