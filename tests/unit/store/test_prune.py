"""Pruning: by age, size and study; never what a running sweep uses or a process makes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from kimi_audio_ft import store
from kimi_audio_ft.files import write_json
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.store.cache import remember
from kimi_audio_ft.store.inventory import listing
from kimi_audio_ft.store.prune import Item, Rules, plan, remove
from kimi_audio_ft.store.usage import Name, records
from tests.unit.store.test_usage import running_sweep, used_products, using_products

DAY = 86400.0
A1, A2, T1, F1 = ("adapter", "a1"), ("adapter", "a2"), ("transcript", "t1"), ("features", "f1")


def put(name: Name, size: int = 100, days: float = 0.0) -> Path:
    """A product of some bytes, made so many days ago."""

    def make(folder: Path) -> dict[str, str]:
        (folder / "content").write_bytes(bytes(size))
        return {"created": time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime(time.time() - days * DAY))}

    return store.find_or_make(*name, make)[0]


def there() -> list[Name]:
    return [(row["kind"], row["signature"]) for row in listing()]


def gone(items: list[Item]) -> list[Name]:
    return [item.name for item in items if not item.keep]


@pytest.fixture
def three(private_store: Path) -> None:
    """Adapters of 9, 5 and 1 days; a transcript of 3; features of 20."""
    put(F1, days=20)
    put(A1, 3000, days=9)
    put(A2, 2000, days=5)
    put(("adapter", "a3"), 1000, days=1)
    put(T1, 10, days=3)


def test_by_age(three: None) -> None:
    rules = Rules(older_than=4 * DAY)
    before = there()
    assert gone(plan(rules)) == [A1, A2] and there() == before, "a plan removes nothing"
    assert gone(remove(rules)) == [A1, A2]
    assert there() == [F1, ("adapter", "a3"), T1]
    assert remove(rules) == []
    left = [path.name for path in (store_root() / "adapter").iterdir() if path.suffix != ".lock"]
    assert left == ["a3"]


def test_age_counts_from_the_last_use(three: None, tmp_path: Path) -> None:
    used_products(tmp_path, [A1])
    assert gone(remove(Rules(older_than=4 * DAY))) == [A2]


def test_by_size(three: None) -> None:
    assert gone(plan(Rules(larger_than=1500))) == [A1, A2]
    assert gone(plan(Rules(larger_than=1500, older_than=6 * DAY))) == [A1]


def test_until_the_rest_fits_the_longest_unused_goes_first(three: None, tmp_path: Path) -> None:
    total = sum(row["bytes"] for row in listing() if row["kind"] != "features")
    assert gone(plan(Rules(keep_bytes=total))) == []
    assert gone(plan(Rules(keep_bytes=total - 1))) == [A1]
    assert gone(plan(Rules(keep_bytes=0))) == [A1, A2, T1, ("adapter", "a3")]
    with store.lock(*A1):
        assert gone(plan(Rules(keep_bytes=total - 1))) == [A2], "what stays makes no room"
    with using_products(tmp_path, [A1]):  # counted, used last, and it stays: others go in its place
        assert gone(plan(Rules(keep_bytes=total - 1))) == [A2]


def test_features_go_only_by_name(three: None, tmp_path: Path) -> None:
    assert gone(plan(Rules(older_than=0.0))) == [A1, A2, T1, ("adapter", "a3")]
    rules = Rules(older_than=0.0, kinds=("features",))
    assert gone(plan(rules)) == [F1]
    with using_products(tmp_path, []):
        assert [item.keep for item in plan(rules)] == [f"the sweep {tmp_path} is running"]
    with store.lock("features", "f1.2"):
        assert [item.keep for item in plan(rules)] == ["being made now"]


def test_by_study(three: None, tmp_path: Path) -> None:
    """What another sweep uses too stays for as long as that sweep's folder is there."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder, names in ((mine, [A1, A2]), (other, [A2])):
        folder.mkdir()
        used_products(folder, names)
    write_json(mine / "0" / "scores.json", {"signature": "a3", "transcript_signatures": ["t1"]})
    (mine / "1").mkdir()
    (mine / "1" / "scores.json").write_text("{")  # of a killed version: names nothing
    assert sorted(gone(plan(Rules(study=mine)))) == [A1, ("adapter", "a3"), T1]
    other.rmdir()
    assert sorted(gone(remove(Rules(study=mine)))) == [A1, A2, ("adapter", "a3"), T1]
    assert records() == [], "nothing that these sweeps used is left"


def test_what_a_running_sweep_uses_stays(three: None, tmp_path: Path) -> None:
    store.work_folder(*A1).mkdir()
    rules = Rules(older_than=0.0, leftovers=True)
    with running_sweep(tmp_path / "sweep") as process:
        items = remove(rules)
        assert [item.keep for item in items if item.name == A1] == [f"used by the running sweep {tmp_path}/sweep"] * 2
        assert there() == [F1, A1] and store.work_folder(*A1).is_dir()
        process.kill()
        process.wait()
        assert gone(remove(rules)) == [A1, A1] and not store.work_folder(*A1).exists()


def test_transcripts_are_used_with_their_adapter(private_store: Path, tmp_path: Path) -> None:
    put(A1, days=9)
    for name, adapter in (("of a1", "a1"), ("of base", "base"), ("of a2", "a2")):
        store.find_or_make("transcript", name, lambda folder, adapter=adapter: {"inputs": {"adapter": adapter}})
    with using_products(tmp_path / "sweep", [A1]):
        assert gone(plan(Rules(older_than=0.0))) == [("transcript", "of a2")]
    (tmp_path / "sweep").mkdir()
    rules = Rules(study=tmp_path / "sweep")
    assert sorted(gone(plan(rules))) == [A1, ("transcript", "of a1")]
    assert [row["studies"] for row in listing()][1] == [str(tmp_path / "sweep")]


def test_what_is_being_made_stays(three: None) -> None:
    store.begin(*A1)
    with store.lock(*A1):
        assert A1 not in gone(remove(Rules(older_than=0.0, leftovers=True)))
        assert store.draft_folder(*A1).is_dir() and there() == [F1, A1]
    assert A1 in gone(remove(Rules(leftovers=True))) and not store.draft_folder(*A1).exists()


def leave(path: Path, days: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    for changed in (path, path.parent):
        os.utime(changed, (time.time() - days * DAY,) * 2)
    return path


def test_leftovers(three: None, private_store: Path) -> None:
    adapters, manifests = private_store / "adapter", private_store / "manifests"
    new = leave(adapters / ".a7.work" / "step=3" / "state.json", 0)
    os.utime(new.parents[1], (time.time(),) * 2)
    old = leave(adapters / ".a8.draft" / "half", 9)
    damaged = leave(adapters / ".corrupt-a9.123" / "half", 9)
    torn = leave(adapters / ".gone-a9.123" / "half", 9)
    cached = [leave(manifests / name, days) for name, days in (("new.npz", 0), ("old.npz", 9))]
    for kind in ("sounds", "layouts", "probes", "rungs", "report"):
        leave(private_store / kind / f"{kind}.json", 9)
    os.utime(manifests)
    by_age = {path.name for path in (i.path for i in remove(Rules(older_than=8 * DAY)))}
    assert by_age == {"a1", ".a8.draft", ".corrupt-a9.123", ".gone-a9.123", "old.npz"} | {
        "sounds.json", "layouts.json", "probes.json", "rungs.json", "report.json",
    }  # fmt: skip
    assert not any(path.exists() for path in (old, damaged, torn, cached[1])) and new.exists()
    assert plan(Rules(keep_bytes=10**9)) == plan(Rules(study=private_store)) == [], "leftovers only when asked for"
    assert {item.path.name for item in remove(Rules(leftovers=True))} == {".a7.work", "new.npz"}
    assert len(there()) == 4, "leftovers alone take no product"


def test_leftovers_of_other_kinds_than_those_named_stay(three: None, private_store: Path) -> None:
    leave(private_store / "adapter" / ".a7.work" / "state.json", 40)
    leave(private_store / "manifests" / "old.npz", 40)
    leave(private_store / "transcript" / ".t7.draft" / "half", 40)
    transcripts = Rules(older_than=30 * DAY, kinds=("transcript",))
    assert gone(plan(transcripts)) == [("transcript", "t7")]
    assert gone(plan(Rules(leftovers=True, kinds=("adapter",)))) == [("adapter", "a7")]
    assert len(gone(plan(Rules(older_than=30 * DAY)))) == 3


def test_files_of_locks_go_with_every_removal_unless_somebody_holds_them(three: None, private_store: Path) -> None:
    remember("probes", "facts", lambda: {"pack_size": 1})
    with store.lock(*A1):
        remove(Rules(larger_than=10**9))
        assert sorted(path.name for path in private_store.rglob("*.lock")) == [".a1.lock", ".gate.lock"]
    assert len(there()) == 5


def test_what_is_not_known_is_named_and_stays(three: None, private_store: Path) -> None:
    ours = ["uses/.ab.json.12.draft", "features/f9/0/codes.bin", "transcript/.t9.draft/half"]
    others = ["jobs/7.json", "adapter/notes.txt", "adapter/.nfs01", "scores/old/1.json"]
    for name in (*ours, *others):
        leave(private_store / name, 9)
    (private_store / "digests.sqlite").touch()
    (private_store / ".store-ab").touch()
    kept = {str(item.path.relative_to(private_store)): item.keep for item in remove(Rules(leftovers=True)) if item.keep}
    assert set(kept) == {"jobs", "adapter/notes.txt", "adapter/.nfs01", "scores/old"}
    assert set(kept.values()) == {"look at it, and remove it by hand"}
    assert all((private_store / name).exists() for name in others) and len(there()) == 5
    assert not any((private_store / name.partition("/0")[0]).exists() for name in ours)
    assert plan(Rules(older_than=10 * DAY)) == [], "of their age, too"


def test_a_removal_that_was_killed_leaves_no_product(three: None, private_store: Path) -> None:
    """Its first act is a rename; what is left of it goes with the leftovers."""
    place = store.product_path(*A1)
    place.replace(place.with_name(".gone-a1.5"))
    assert A1 not in there() and store.find(*A1) is None
    assert [item.what for item in remove(Rules(leftovers=True))] == ["half removed"]


def test_a_record_without_products_is_forgotten(three: None, tmp_path: Path) -> None:
    used_products(tmp_path / "used", [A2])
    used_products(tmp_path / "unused", [("adapter", "a99")])
    with using_products(tmp_path / "begun", []):
        remove(Rules(larger_than=10**9))
    assert {record.sweep.name for record in records()} == {"used", "begun"}
    json.loads(records()[0].file.read_text())
