"""Long manifests: memory does not grow with them, one order for everyone, and an epoch may be cut anywhere."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.bench_data import write_manifest
from kimi_audio_ft.config.train import DataConfig
from kimi_audio_ft.data.datamodule import BatchRules, ConversationData
from kimi_audio_ft.files import read_jsonl, write_jsonl
from kimi_audio_ft.store.digests import file_digests
from tests.forkserver import fork_command
from tests.pace import pace
from tests.unit.conftest import Tiny, answer, audio, line, user

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]
LINES = 1500
Make = Callable[..., ConversationData]


@pytest.fixture(scope="module")
def long_manifest(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1500 ragged lines with a recording each (any bytes: nothing opens them when their features are stored)."""
    folder, rng = tmp_path_factory.mktemp("long"), random.Random(5)
    (folder / "clips").mkdir()
    lines = []
    for number in range(LINES):
        (folder / "clips" / f"{number}.wav").write_bytes(b"%d" % number)
        codes = [rng.randrange(tiny.tokens.first, tiny.tokens.end) for _ in range(rng.randint(2, 9))]
        heard = audio(f"clips/{number}.wav", audio_tokens=codes)
        lines.append(line(f"u{number}", user("转录"), heard, answer("你好" * rng.randint(1, 4))))
    write_jsonl(folder / "m.jsonl", lines)
    return folder / "m.jsonl"


@pytest.fixture
def make_long(long_manifest: Path, tiny: Tiny) -> Make:
    """Makes a data module over the long manifest, two micro-batches a step."""

    def make(**fields: Any) -> ConversationData:
        defaults = {"features": "none", "batch_size": 3, "max_length": 24}
        settings = DataConfig(str(long_manifest), str(long_manifest), **defaults | fields)  # type: ignore[arg-type]
        data = ConversationData(settings, tiny.tokenizer, tiny.encoders(), tiny.tokens, BatchRules(2, "sample", 7))
        data.setup()
        return data

    return make


def ids(steps: Any) -> list[list[list[str]]]:
    """Conversations of every micro-batch of every step."""
    return [[batch["ids"] for batch in step] for step in steps]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_exactly_where_it_was_cut(make_long: Make, workers: int) -> None:
    whole = ids(make_long().train_dataloader())
    assert len(whole) > 100
    for cut in (1, len(whole) // 2, len(whole) - 1):
        loader = make_long(num_workers=workers).train_dataloader()
        steps = iter(loader)
        begun = ids([next(steps) for _ in range(cut)])
        state = loader.state_dict()  # type: ignore[attr-defined]
        del steps
        resumed = make_long(num_workers=workers).train_dataloader()
        resumed.load_state_dict(state)  # type: ignore[attr-defined]
        assert begun + ids(resumed) == whole


def test_only_the_first_of_many_left_out_are_listed(make_long: Make) -> None:
    data = make_long(max_length=15)
    lengths = make_long(max_length=10_000).train_set.lengths()[:, 0]
    assert data.num_left_out == int((lengths > 15).sum()) > 1000 == len(data.left_out)
    places = np.flatnonzero(lengths > 15)[:1000]
    assert data.left_out == [
        {"id": f"u{place}", "line": place + 1, "positions": lengths[place]} for place in places.tolist()
    ]
    facts = json.loads(json.dumps(data.describe()))
    assert facts["num_left_out"] == data.num_left_out and len(facts["left_out"]) == 1000


@pytest.mark.parametrize("workers", [0, 2])
def test_stored_features_go_to_their_conversations(
    make_long: Make, long_manifest: Path, tiny: Tiny, workers: int
) -> None:
    clips = [long_manifest.parent / "clips" / f"{number}.wav" for number in range(LINES)]
    codes = [row["conversation"][1]["audio_tokens"] for row in read_jsonl(long_manifest)]
    counts = [len(own) for own in codes]
    store = tiny.encoders().store()
    keys = file_digests(clips)
    store.add(
        [(key, [code - tiny.tokens.first for code in own], torch.full((len(own), store.dim), float(number)))
         for number, (key, own) in enumerate(zip(keys, codes, strict=True))]
    )  # fmt: skip
    seen = 0
    for step in make_long(features="cached", num_workers=workers).train_dataloader():
        for batch in step:
            for name, rows in zip(batch["ids"], batch["inputs"]["audio_features"], strict=True):
                assert rows.shape[0] == counts[int(name[1:])] and bool((rows == float(name[1:])).all())
                seen += 1
    assert seen > 1000


def test_twenty_thousand_lines(tmp_path: Path) -> None:
    """Two seconds of two idle cores at most to the first batch, as CPU time.

    Memory beyond the start is far from the 125 MB that as many conversations in memory would take.
    """
    write_manifest(tmp_path / "train.jsonl", 20_000)
    write_manifest(tmp_path / "eval.jsonl", 100, seed=1)
    arguments = ["--steps", "0", "--measure", str(tmp_path / "train.jsonl"), str(tmp_path / "eval.jsonl")]
    found = []
    for name in ("cold", "warm"):  # processes of their own, as their peaks of memory are
        out = tmp_path / name
        process = fork_command("experiments.bench_data", arguments, REPOSITORY, os.environ, out)
        process.join()
        assert process.exitcode == 0, out.read_text(encoding="utf-8")
        found.append(json.loads(out.read_text(encoding="utf-8").splitlines()[-1]))
    cold, warm = found
    own = pace()
    assert cold["cpu_seconds"] < 100 * own and cold["peak_mib"] < 30
    assert warm["cpu_seconds"] < 25 * own and warm["peak_mib"] < 30
