"""Several manifests as one: ids, identities, parts and weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.train import DataConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.manifest.manifest import manifest_identity, read_manifest, reference_identity
from kimi_audio_ft.manifest.several import Conversations, read_evaluation, read_training
from tests.unit.conftest import Tiny, answer, audio, line, user

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, tiny: Tiny) -> Write:
    """Writes a manifest of conversations with these ids, whose codes and texts are those of ``texts``."""

    def make(name: str, *ids: str, text: str = "好", **more: Any) -> str:
        codes = [tiny.tokens.first + len(name), tiny.tokens.first + len(text)]
        rows = [line(one, audio("", audio_tokens=codes), answer(f"{text}{one}")) | more for one in ids]
        write_jsonl(tmp_path / name, rows)
        return str(tmp_path / name)

    return make


def training(tiny: Tiny, **fields: Any) -> Conversations:
    return read_training(DataConfig(**fields), tiny.tokens, tiny.tokenizer)


def evaluation(tiny: Tiny, value: Any, **fields: Any) -> Conversations:
    return read_evaluation(DataConfig(eval_manifest=value, **fields), tiny.tokens, tiny.tokenizer)


def ids(conversations: Conversations) -> list[str]:
    return [conversation.id for conversation in conversations]


def test_one_manifest_is_what_it_was(write: Write, tiny: Tiny) -> None:
    path = write("a.jsonl", "1", "2")
    own = manifest_identity(read_manifest(path, tokens=tiny.tokens))
    for form in (path, [path]):
        assert training(tiny, train_manifest=form).identity() == own
        assert evaluation(tiny, form).identity() == own
    assert evaluation(tiny, {"a": path}).identity() == own
    assert training(tiny, train_manifest=path, train_weights=[1.0]).identity() == own
    assert not list(evaluation(tiny, {"a": path}).set_names())


def test_their_order_makes_no_difference(write: Write, tiny: Tiny) -> None:
    a, b = write("a.jsonl", "1", "2"), write("b.jsonl", "3", "4", "5")
    one = training(tiny, train_manifest=[a, b], train_weights=[1, 2])
    other = training(tiny, train_manifest=[b, a], train_weights=[2, 1])
    assert one.identity() == other.identity() and ids(one) == ids(other) and one.mix == other.mix
    assert one.identity() != training(tiny, train_manifest=[a, b], train_weights=[2, 1]).identity()
    sets = ({"a": a, "b": b}, {"b": b, "a": a}, [a, b])
    assert len({evaluation(tiny, value).identity() for value in sets}) == 1
    assert ids(evaluation(tiny, sets[1])) == ids(evaluation(tiny, sets[2]))


@pytest.mark.parametrize("ids_of_b", [("3", "4"), ("2", "3")], ids=["own ids", "a common id"])
def test_sets_have_one_order_under_every_prompt(tiny: Tiny, tmp_path: Path, ids_of_b: tuple[str, ...]) -> None:
    sets = {"a": ("1", "2"), "b": ids_of_b}
    messages = user("听写"), audio("", audio_tokens=[tiny.tokens.first]), answer("好")
    for name, own in sets.items():
        write_jsonl(tmp_path / name, [line(one, *messages) for one in own])
    paths = {name: str(tmp_path / name) for name in sets}
    several = [evaluation(tiny, paths, prompt=f"写{number}") for number in range(10)]
    assert len({tuple(ids(one)) for one in several}) == 1
    assert len({one.identity(reference_identity) for one in several}) == 1 < len({one.identity() for one in several})


def test_weights_that_take_the_same_are_one_identity(write: Write, tiny: Tiny) -> None:
    both = [write("a.jsonl", "1", "2"), write("b.jsonl", "3", "4", "5")]

    def mixed(*weights: float) -> Conversations:
        return training(tiny, train_manifest=both, train_weights=list(weights))

    plain = training(tiny, train_manifest=both)
    assert plain.identity() == mixed(1, 1).identity() == mixed(1.0, 1.01).identity() and plain.mix is None
    assert plain.epoch_size == 5 and mixed(1, 3).epoch_size == 11 and mixed(0.5, 0.01).epoch_size == 2
    assert plain.identity() != mixed(1, 3).identity() != mixed(3, 1).identity()
    alone = training(tiny, train_manifest=both[0])
    assert mixed(1, 0).identity() == alone.identity() != mixed(2, 0).identity()


def test_a_subset_is_of_all_manifests_together(write: Write, tiny: Tiny) -> None:
    both = [write("a.jsonl", *map(str, range(8))), write("b.jsonl", *map(str, range(20, 32)))]
    before: set[str] = set()
    for size in range(1, 21):
        some = training(tiny, train_manifest=both, train_subset=size, train_weights=[1, 2])
        assert len(some) == len({*ids(some)}) == size and before < {*ids(some)}
        assert all(len(part) for part in some.parts), "a manifest of which nothing is taken is left out"
        before = {*ids(some)}
    assert 1 < sum(int(one) < 20 for one in ids(training(tiny, train_manifest=both, train_subset=12))) < 11
    with pytest.raises(ConfigError, match=r"data\.train_subset=21: .*a\.jsonl, .*b\.jsonl holds 20 conversations"):
        training(tiny, train_manifest=both, train_subset=21)


def test_ids_of_evaluation_sets_are_unique(write: Write, tiny: Tiny) -> None:
    a, b = write("a.jsonl", "1", "2"), write("b.jsonl", "2", "3", group="m")
    apart = evaluation(tiny, {"x": a, "y": write("c.jsonl", "3")})
    assert sorted(zip(ids(apart), apart.set_names(), strict=True)) == [("1", "x"), ("2", "x"), ("3", "y")]
    shared = evaluation(tiny, {"x": a, "y": b})
    assert {one.id: one.recording for one in shared} == {"x/1": "x/1", "x/2": "x/2", "y/2": "y/m", "y/3": "y/m"}
    assert ids(shared[1:3]) == ids(shared)[1:3] and shared[-1].id == shared[3].id
    assert [one.partition("/")[0] for one in ids(shared[1:3])] == list(shared[1:3].set_names())
    with pytest.raises(IndexError):
        shared[4]
    assert shared.identity() != evaluation(tiny, {"x": a, "z": b}).identity(), "the names are in the ids"


def test_the_identity_does_not_depend_on_the_place(write: Write, tiny: Tiny, tmp_path: Path) -> None:
    paths = [write("a.jsonl", "1", "2"), write("b.jsonl", "3")]
    before = training(tiny, train_manifest=paths, train_weights=[2, 1]).identity()
    moved = [str(tmp_path / name) for name in ("z.jsonl", "y.jsonl")]
    for old, new in zip(paths, moved, strict=True):
        Path(old).replace(new)
    assert training(tiny, train_manifest=moved, train_weights=[2, 1]).identity() == before
