"""Options of the commands prepare, tokenize, merge, export_adapter and combine: a sentence per field, and checks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from kimi_audio_ft.config.checks import at_least, below_one, count_or_auto, expand_home, one_of, require
from kimi_audio_ft.config.data_file import DATA_FILE, find_data_file, untokenized
from kimi_audio_ft.config.launcher import EXECUTORS
from kimi_audio_ft.config.train import DEFAULT_PROMPT, ModelConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.paths import expanded

SNR = "snr_db"
"""The column that ``PrepareConfig.snr`` adds."""

# Hydra's command line takes none of these characters without two layers of quotes.
_DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}


@dataclass
class PrepareConfig:
    """A CSV with one recording and its transcript per row becomes manifests."""

    csv: str = MISSING  # The CSV to read.
    # Folder for train.jsonl, eval.jsonl, test.jsonl, data.yaml, rejected.jsonl and summary.json, made if absent.
    out: str = MISSING
    # Column with the recording's file name: its name in the header, or its position from 0.
    audio_column: str = "audio"
    text_column: str = "text"  # Column with the transcript, by name or position.
    # Column that says which recording a segment was cut from (or its speaker); a group never crosses splits.
    group_column: str | None = None
    # Without group_column: a regular expression searched in the file name; the part in (...) is the group; null makes
    # every file its own group.
    group_pattern: str | None = None
    # Column with the utterance's id; null takes the file name without suffix, numbered where it occurs again.
    id_column: str | None = None
    # Columns with the seconds (such as 12.34) at which a row's segment begins and ends in its recording; null: rows are
    # whole recordings. Without group_column and group_pattern the segments of one recording are a group.
    start_column: str | None = None
    end_column: str | None = None
    # Column with the channel, a number from 0, that a row is said in; null mixes all channels of the recording.
    channel_column: str | None = None
    # More columns, by name or position, that go into the manifest and on into utterances.jsonl: [speaker,city].
    keep_columns: list[str] = field(default_factory=list)
    # Estimate how loud each row's speech is against its steady background, in dB, as one more such column (snr_db),
    # which is empty for less than two seconds of sound: too short to tell.
    snr: bool = False
    # Where the recordings are: {csv_dir} is the CSV's folder, {audio} the audio column's value, {NAME} any other
    # column's; a value that is an absolute path is taken as it is.
    audio_pattern: str = "{csv_dir}/{audio}"
    # Encoding of the CSV; auto tries a byte order mark, UTF-8, then GB18030 (which holds GBK) if that gives Chinese.
    encoding: str = "auto"
    # Character between cells, or tab, comma, semicolon, pipe; null is a tab for *.tsv and a comma otherwise.
    delimiter: str | None = None
    quotechar: str = '"'  # Quote around cells that hold commas or newlines; "" for files that do not quote.
    # Whether the first row names the columns: true, false, or auto (it does if a wanted column's name is in it).
    header: str = "auto"
    # Tags such as <unk>, [laughter] or {noise} in transcripts: refuse the row, strip them from it, or keep them.
    tags: str = "refuse"
    # Largest part of the rows that may be refused; beyond it no manifest is written. 1 goes on with what is left.
    max_refused: float = 0.2
    # CSV with the columns id, reference, decision (keep, correct or drop) and correction, as labels.html saves it and
    # suspects.csv has them (multirun_analysis.labels). No other row changes its split.
    decisions: str | None = None
    prompt: str = DEFAULT_PROMPT  # Instruction that precedes every recording; train and decode with the same one.
    task_type: str = "understanding"  # The conversation's task_type: understanding, which asks for a text answer.
    row_limit: int | None = None  # Read only the first n rows; null reads all.
    min_seconds: float = 0.2  # Shorter recordings, in seconds, are rejected.
    max_seconds: float = 60.0  # Longer recordings, in seconds, are rejected.
    # Fewer letters and digits per second are rejected: the transcript lacks most of what is said.
    min_chars_per_second: float = 0.2
    # More letters and digits per second are rejected; Mandarin runs at 4 to 8, English at 10 to 20.
    max_chars_per_second: float = 25.0
    eval_ratio: float = 0.05  # Fraction of the segments held out for evaluation; 0 writes no eval.jsonl.
    # Fraction of the segments that no trial sees: a sweep's choice is decoded on them once. 0 writes no test.jsonl.
    test_ratio: float = 0.1
    balance_column: str | None = None  # Column whose values occur equally often in train.jsonl.
    # How: downsample to the rarest value, upsample to the most frequent by repeating rows, or none.
    balance_mode: str = "none"
    seed: int = 0  # Seed of the splits and of balancing.
    workers: int = 4  # Threads that open and check recordings.

    def __post_init__(self) -> None:
        expand_home(self, "csv", "out", "audio_pattern", "decisions")
        self.header = self.header.lower()
        self.delimiter = _DELIMITERS.get(self.delimiter or "", self.delimiter)
        one_of("header", self.header, ("auto", "true", "false"))
        one_of("task_type", self.task_type, ("understanding",))
        one_of("balance_mode", self.balance_mode, ("none", "downsample", "upsample"))
        one_of("tags", self.tags, ("refuse", "strip", "keep"))
        require(0 <= self.max_refused <= 1, "max_refused", self.max_refused, "must be between 0 and 1")
        self._check_csv_format()
        self._check_limits()
        self._check_ratios()
        self._check_grouping()
        self._check_columns()
        require(bool(self.prompt.strip()), "prompt", self.prompt, "must not be empty")
        together = (self.balance_mode == "none") == (self.balance_column is None)
        rule = "balance_column and balance_mode=downsample or upsample go together"
        require(together, "balance_column", self.balance_column, rule, "Set both or neither")

    def _check_columns(self) -> None:
        for option, other in (("start_column", "end_column"), ("end_column", "start_column")):
            rule = f"{other} is null, and a segment needs both"
            together = getattr(self, option) is None or getattr(self, other) is not None
            require(together, option, getattr(self, option), rule, "Set both or neither")

    def _check_csv_format(self) -> None:
        delimiter = self.delimiter
        right = delimiter is None or (len(delimiter) == 1 and delimiter not in "\r\n" + self.quotechar)
        rule = f"must be one character other than quotechar, or one of {', '.join(_DELIMITERS)}"
        require(right, "delimiter", delimiter, rule)
        rule = 'must be one character, or "" for no quoting'
        require(len(self.quotechar) <= 1, "quotechar", self.quotechar, rule)
        if self.encoding != "auto":
            try:
                "a".encode(self.encoding)
            except LookupError as error:
                remedy = "Use auto, utf-8, gb18030 or another Python codec"
                raise ConfigError("encoding", self.encoding, "no such encoding", remedy) from error

    def _check_limits(self) -> None:
        for low, high in (("min_seconds", "max_seconds"), ("min_chars_per_second", "max_chars_per_second")):
            bottom, top = getattr(self, low), getattr(self, high)
            require(0 <= bottom < top, low, bottom, f"must be at least 0 and less than {high}={top!r}")
        at_least(1, self, "", "row_limit", remedy="null reads every row")
        at_least(1, self, "", "workers")

    def _check_ratios(self) -> None:
        below_one(self, "", "eval_ratio", "test_ratio")
        rule = f"together with test_ratio={self.test_ratio!r} it must be less than 1, or nothing is left to train on"
        require(self.eval_ratio + self.test_ratio < 1, "eval_ratio", self.eval_ratio, rule)

    def _check_grouping(self) -> None:
        if self.group_pattern is None:
            return
        rule = f"group_column={self.group_column!r} is set as well"
        require(self.group_column is None, "group_pattern", self.group_pattern, rule, "Set one of them")
        try:
            groups = re.compile(self.group_pattern).groups
        except re.error as error:
            rule = f"not a regular expression ({error})"
            raise ConfigError("group_pattern", self.group_pattern, rule) from error
        rule = f"has {groups} groups (...); the key is one of them"
        require(groups <= 1, "group_pattern", self.group_pattern, rule, "Write (?:...) for the others")


@dataclass
class TokenizeConfig:
    """``python -m kimi_audio_ft.tokenize``: semantic codes into manifests, Whisper features into the store."""

    # Manifests to tokenize: a folder of prepare or its data.yaml, a manifest, or a list of them.
    manifests: Any = field(default_factory=list)
    out: str | None = None  # Folder for the pretokenized manifests; null is beside each, as NAME.tokens.jsonl.
    audio_root: str | None = None  # Folder that relative audio paths start from; null is the manifest's own folder.
    model: ModelConfig = field(default_factory=ModelConfig)
    features: bool = True  # Also store Whisper features; false computes codes only.
    batch_size: int = 8  # Pieces of 30 s, of any files, encoded together; never changes a result beyond rounding.
    devices: Any = "auto"  # Processes that share the work: auto is one per GPU, and one without any; or a number.
    readers: int = 2  # Threads of each process that decode recordings ahead of the encoders.
    threads: int = 0  # CPU threads of PyTorch in each process; 0 is its own choice, or a fair part for several.
    progress: bool = True  # Show a progress bar.

    def __post_init__(self) -> None:
        self.manifests = self._named_manifests()
        expand_home(self, "out", "audio_root")
        at_least(1, self, "", "batch_size", "readers")
        count_or_auto("devices", self.devices)
        at_least(0, self, "", "threads")

    def _named_manifests(self) -> list[str]:
        given = self.manifests if isinstance(self.manifests, list) else [self.manifests]
        remedy = "Write manifests=FOLDER for one that prepare has written, or manifests=[train.jsonl,eval.jsonl]"
        named = bool(given) and all(isinstance(name, str) and name for name in given)
        require(named, "manifests", self.manifests, "must name a folder with a data.yaml, or manifests", remedy)
        found = list[str]()
        for name in given:
            path, file = expanded(name), find_data_file(name)
            if path.is_dir() or path.suffix == ".yaml":
                rule = f"is a folder without {DATA_FILE}" if path.is_dir() else "there is no such file"
                require(file is not None, "manifests", name, rule, remedy)
                found += untokenized(file) if file else []
            else:
                found.append(str(path))
        return found


@dataclass
class MergeConfig:
    """An adapter and its base become one checkpoint."""

    # Adapter folder in PEFT's format, a signature in the store, or the folder of a sweep, which recommends one; null
    # with target=qwen2 writes the base alone, for an engine that is given adapters beside it.
    adapter: str | None = MISSING
    out: str = MISSING  # Folder of the merged checkpoint; it must not exist, or hold the same merge.
    model: ModelConfig = field(default_factory=ModelConfig)  # The base that the adapter was trained on.
    any_base: bool = False  # Merge an adapter into another base than the one that it was trained on.
    # Who shall load it: official (the published code; ours too), or qwen2 (transformers, vLLM and other engines
    # that have Qwen2 and take prompt embeddings, which our code makes with the folder's front_end/).
    target: str = "official"
    shard_gb: float = 2.8  # Largest shard in 10^9 bytes; the 7B makes 8 shards of 2.8.
    dtype: str = "bfloat16"  # Number format of the merged decoder: bfloat16 as published, or float32.
    overwrite: bool = False  # Replace what an earlier merge wrote to out.
    verify: str = "auto"  # Compare logits with base + adapter: true, false, or auto (when that takes under 5 GB).
    progress: bool = True  # Show a progress bar.

    def __post_init__(self) -> None:
        self.verify = self.verify.lower()
        remedy = "See python -m kimi_audio_ft.store ls"
        alone = self.adapter is None and self.target == "qwen2"
        rule = "must name an adapter; only target=qwen2 writes a base alone"
        require(bool(self.adapter) or alone, "adapter", self.adapter, rule, remedy)
        require(bool(self.out), "out", self.out, "must name a folder", "Write out=FOLDER")
        rule = "is no longer written: vLLM's own class of Kimi-Audio computes another function than the model"
        remedy = "Use target=qwen2, which stock vLLM serves from prompt embeddings"
        require(self.target != "vllm", "target", self.target, rule, remedy)
        one_of("target", self.target, ("official", "qwen2"))
        one_of("dtype", self.dtype, ("bfloat16", "float32"))
        one_of("verify", self.verify, ("auto", "true", "false"))
        require(self.shard_gb > 0, "shard_gb", self.shard_gb, "must be greater than 0", "2.8 gives the 7B 8 shards")


@dataclass
class ExportAdapterConfig:
    """A copy of an adapter as vLLM and other engines take it beside the base that ``merge target=qwen2`` writes."""

    # Adapter folder in PEFT's format, a signature in the store, or the folder of a sweep, which recommends one.
    adapter: str = MISSING
    out: str = MISSING  # Folder of the copy; it must not exist, or hold the same copy.
    overwrite: bool = False  # Replace what an earlier export wrote to out.

    def __post_init__(self) -> None:
        remedy = "See python -m kimi_audio_ft.store ls"
        require(bool(self.adapter), "adapter", self.adapter, "must name an adapter", remedy)
        require(bool(self.out), "out", self.out, "must name a folder", "Write out=FOLDER")


@dataclass
class CombineConfig:
    """``python -m kimi_audio_ft.combine``: what a sweep has made anyway, combined."""

    sweep: str = MISSING  # Folder of the sweep.
    # Numbers of the trials to combine, such as [0,3]; null takes those that may be the best, one of each adapter.
    trials: list[str] | None = None
    most: int | None = None  # With trials=null, how many to take at most (null: 4); the recommended setting's first.
    # How many samples of every utterance to draw as well, with the best of these trials' adapters; null is none.
    samples: int | None = None
    temperature: float | None = None  # Of these samples; null is 0.6.
    mean: bool = True  # Also average the adapters, and decode the evaluation set with the mean.
    # Rank of the mean adapter; null is the sum of the adapters' ranks, which loses nothing. Fewer are cut off by SVD.
    rank: int | None = None
    out: str | None = None  # Folder for the combinations; null is SWEEP/combinations, where the report finds them.
    overwrite: bool = False  # Replace other combinations in out, with their mean adapter.
    # Decodes what the store lacks: local (this machine), slurm or ray, with the resources that hydra.launcher.slurm or
    # .ray of the sweep asks for; null is what the sweep was started with.
    executor: str | None = None

    def __post_init__(self) -> None:
        expand_home(self, "sweep", "out")
        require(bool(self.sweep), "sweep", self.sweep, "must name the folder of a sweep", "Write sweep=FOLDER")
        at_least(2, self, "", "most")
        at_least(3, self, "", "samples", remedy="Of two, the first is always taken")
        is_positive = self.temperature is None or self.temperature > 0
        require(is_positive, "temperature", self.temperature, "must be greater than 0", "At 0 all are the same")
        at_least(1, self, "", "rank", remedy="null keeps all ranks")
        is_used = self.samples is not None or self.temperature is None
        require(is_used, "temperature", self.temperature, "is that of new samples; there are none", "Set samples=16")
        rule = "is that of the mean adapter, which mean=false leaves out"
        require(self.mean or self.rank is None, "rank", self.rank, rule, "Leave out mean=false, or rank")
        if self.executor is not None:
            one_of("executor", self.executor, EXECUTORS)
        is_used = self.trials is None or self.most is None
        require(is_used, "most", self.most, "needs trials=null", "All trials that are named are taken")
        if self.trials is not None:
            twice = sorted({name for name in self.trials if self.trials.count(name) > 1})
            require(not twice, "trials", self.trials, f"names {', '.join(twice)} twice")
            require(bool(self.trials), "trials", self.trials, "must name trials", "null takes the best ones")
