"""The products in the store: what made each, which sweeps used it, and whether its files are whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from kimi_audio_ft import store
from kimi_audio_ft.config.train import DecodingConfig, LoraConfig, OptimConfig, TrainConfig
from kimi_audio_ft.files import write_json
from kimi_audio_ft.store.inventory import has_hashes, listing, problem, products
from tests.unit.store.small_products import make_two_files, write_features
from tests.unit.store.test_usage import used_products


def test_products(private_store: Path, tmp_path: Path) -> None:
    assert listing() == []
    for kind, name in (("transcript", "bb"), ("adapter", "cc"), ("adapter", "aa")):
        store.find_or_make(kind, name, make_two_files)
    store.work_folder("adapter", "dd").mkdir()
    (private_store / "adapter" / "ee").mkdir()  # no product.json: not finished
    (private_store / "digests.sqlite").write_bytes(b"")
    used_products(tmp_path / "sweep", [("adapter", "aa")])
    found = listing()
    names = [(row["kind"], row["signature"]) for row in found]
    assert names == [("adapter", "aa"), ("adapter", "cc"), ("transcript", "bb")]
    fields = {"kind", "signature", "path", "created", "bytes", "made_by", "last_used", "studies"}
    assert all(set(row) == fields for row in found)
    first, place = found[0], private_store / "adapter" / "aa"
    assert first["path"] == str(place)
    assert first["bytes"] == 1000 + 3 + (place / "product.json").stat().st_size
    assert first["created"] == store.read_meta(place)["created"] <= first["last_used"]
    assert [row["studies"] for row in found] == [[str(tmp_path / "sweep")], [], []]


def test_what_made_a_product() -> None:
    config = TrainConfig(
        lora=LoraConfig(r=4), optim=OptimConfig(lr=0.003), decoding=DecodingConfig(text_temperature=0.3), seed=7
    )
    config.data.train_manifest = "data/train.jsonl"
    store.find_or_make("adapter", "a1", lambda folder: {"config": asdict(config), "steps": 3})
    inputs = {"adapter": "a1", "eval": "x", "seed": 7, "repeat": 1}
    facts = {"inputs": inputs, "decoding": asdict(config.decoding)}
    store.find_or_make("transcript", "t1", lambda folder: facts)
    write_features("f1", {}, [])
    made_by = {row["signature"]: row["made_by"] for row in listing()}
    assert made_by["a1"] == (
        "lora.r=4 lora.lora_alpha=8 lora.lora_dropout=0.05 optim.lr=0.003 seed=7 steps=3 data=train.jsonl"
    )
    assert made_by["t1"].startswith("adapter=a1 seed=7 repeat=1 text_temperature=0.3 text_top_k=5 ")
    assert made_by["f1"] == "dim=2 dtype=bfloat16"


def test_a_transcript_is_used_with_its_adapter(private_store: Path, tmp_path: Path) -> None:
    store.find_or_make("transcript", "t1", lambda folder: {"inputs": {"adapter": "a1"}})
    used_products(tmp_path / "sweep", [("adapter", "a1")])
    (transcript,) = products(("transcript",))
    assert (transcript.adapter, transcript.studies) == ("a1", [str(tmp_path / "sweep")])
    assert "adapter" not in listing()[0]


def test_only_the_kinds_asked_for(private_store: Path) -> None:
    for kind in ("adapter", "transcript"):
        store.find_or_make(kind, "a1", make_two_files)
    assert [product.name for product in products(("transcript",))] == [("transcript", "a1")]


def test_damage_is_found_where_hashes_were_kept(private_store: Path) -> None:
    for name in ("new", "old"):
        store.find_or_make("adapter", name, make_two_files)
    write_json(store.product_path("adapter", "old") / "product.json", {"created": "2026-11-24T10:00:00+0000"})
    new, old = products()
    assert (has_hashes(new), has_hashes(old)) == (True, False)
    assert problem(new) is None and problem(old) is None
    for product in (new, old):
        (Path(product.path) / "a.bin").write_bytes(b"y" * 1000)
    assert "a.bin" in str(problem(new)) and problem(old) is None


def test_features_need_the_bytes_that_their_index_names(private_store: Path) -> None:
    folder = write_features("f1", {"0/codes.bin": 12, "0/features.bin": 12}, [(b"k1", 0, 3, 0)])
    (product,) = products()
    assert problem(product) is None
    (folder / "0" / "codes.bin").write_bytes(bytes(11))
    assert problem(product) == "0/codes.bin has 11 bytes, and index.bin needs 12"
