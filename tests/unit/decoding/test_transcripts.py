"""Requests for transcripts: what is decoded, what is found, and what is told meanwhile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kimi_audio_ft import store
from kimi_audio_ft.config.train import DecodingConfig, TrainConfig
from kimi_audio_ft.decoding.request import DecodingRequest as Request
from kimi_audio_ft.decoding.transcripts import decode, decode_all, transcript_signatures
from kimi_audio_ft.errors import ChangedError, DataError
from kimi_audio_ft.files import read_jsonl, write_jsonl
from kimi_audio_ft.manifest.manifest import require_positions
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.runtime.signals import Interrupted
from kimi_audio_ft.scoring import ScoringOptions
from kimi_audio_ft.scoring.trial_scores import score_repeats, utterance_rows
from kimi_audio_ft.store.inventory import listing
from kimi_audio_ft.trial import Trial, scores_of

COLD = DecodingConfig(text_temperature=0.0, max_new_tokens=3)
WARM = DecodingConfig(text_temperature=8.0, text_top_k=0, max_new_tokens=3, repeats=2)
UTTERANCES = 9


@pytest.fixture
def trial(trial_config: Callable[..., TrainConfig]) -> Trial:
    return Trial(trial_config())


Told = Callable[..., list[tuple[int, int]]]


@pytest.fixture
def told(trial: Trial) -> Told:
    """Decodes some requests and returns the progress that was told."""

    def run(*requests: Request) -> list[tuple[int, int]]:
        points: list[tuple[int, int]] = []
        decode_all(trial.evaluation, requests, None, on_progress=lambda *point: points.append(point))
        return points

    return run


def test_only_what_is_missing_is_decoded(told: Told) -> None:
    assert told(Request(COLD, 1), Request(WARM, 1)) == [(24, 27), (27, 27)]  # batches of 8 and 1, three samplings
    assert told(Request(WARM, 1), Request(COLD, 1)) == []
    assert told(Request(COLD, 1), Request(replace(WARM, repeats=3), 1)) == [(8, 9), (9, 9)]
    assert told(Request(replace(COLD, batch_size=3), 1)) == []
    assert told(Request(replace(WARM, batch_size=3), 2), Request(WARM, 2)) == [(6, 18), (12, 18), (18, 18)]


def test_requests_that_ask_for_the_same_share_it(trial: Trial, told: Told) -> None:
    greedy = [Request(COLD, 1), Request(replace(COLD, text_top_k=9, repeats=3), 2)]
    assert told(*greedy, Request(WARM, 1), Request(WARM, 1))[-1] == (27, 27)
    one, same, warm = decode_all(trial.evaluation, [*greedy, Request(WARM, 1)], None)
    assert one == same and len(warm.signatures) == 2
    assert warm.signatures == transcript_signatures(trial.evaluation, Request(WARM, 1), None)
    assert transcript_signatures(trial.evaluation, Request(WARM, 1), "a1") != warm.signatures


def test_the_time_is_shared_in_equal_parts(trial: Trial) -> None:
    one, two = decode_all(trial.evaluation, [Request(COLD, 1), Request(WARM, 1)], None)
    facts = [store.read_meta(store.product_path("transcript", name)) for name in (*one.signatures, *two.signatures)]
    assert len({fact["decode_seconds"] for fact in facts}) == 1 and facts[0]["decode_seconds"] > 0
    assert two.seconds == pytest.approx(2 * one.seconds)
    assert [fact["inputs"]["repeat"] for fact in facts] == [0, 0, 1]


def test_a_decoding_that_is_stopped_keeps_its_batches(trial: Trial) -> None:
    """They are not decoded again, and the result is the one of a decoding that nobody stopped."""
    requests, points = [Request(replace(COLD, batch_size=2), 1), Request(WARM, 1)], list[tuple[int, int]]()
    whole = decode_all(trial.evaluation, requests, None)
    shutil.rmtree(store.product_path("transcript", whole[0].signatures[0]).parent)

    def count(*point: int) -> None:
        points.append((point[0], point[1]))

    with pytest.raises(Interrupted):
        decode_all(trial.evaluation, requests, None, False, count, lambda: len(points) == 2)
    assert points == [(6, 27), (12, 27)]
    names = [name for found in whole for name in found.signatures]
    assert all(store.find("transcript", name) is None for name in names)
    saved = store.work_folder("transcript", names[0]) / "transcripts.jsonl"
    write_jsonl(saved, [row | {"seconds": 100.0} for row in read_jsonl(saved)])
    with saved.open("a") as file:
        file.write('["eval0", "half a li')  # as a killed process leaves it
    with pytest.raises(Interrupted):
        decode_all(trial.evaluation, requests, None, False, count, lambda: len(points) == 3)
    again = decode_all(trial.evaluation, requests, None, False, count)
    assert points[2:] == [(18, 27), (24, 27), (27, 27)]
    assert [found.hypotheses for found in again] == [found.hypotheses for found in whole]
    assert again[0].seconds > 400 > again[1].seconds, "of all calls"
    assert not any(store.work_folder("transcript", name).exists() for name in names)


def test_no_request(trial: Trial) -> None:
    assert decode_all(trial.evaluation, [], None) == []


def test_a_decoding_that_fails_half_way_leaves_nothing(trial: Trial, private_store: Path) -> None:
    passes: list[int] = []

    def fail_late(*_: object) -> None:
        passes.append(1)
        if len(passes) == 5:
            raise RuntimeError("no memory")

    requests = [Request(COLD, 1), Request(WARM, 1)]
    hook = trial.base.load().lm_head.register_forward_hook(fail_late)
    with pytest.raises(RuntimeError, match="no memory"):
        decode_all(trial.evaluation, requests, None)
    hook.remove()
    names = [n for request in requests for n in transcript_signatures(trial.evaluation, request, None)]
    assert listing() == [] and len(names) == 3
    with ExitStack() as locks:
        for name in names:
            locks.enter_context(store.lock("transcript", name, timeout=0))
    together = decode_all(trial.evaluation, requests, None)
    assert together[0].hypotheses == decode(trial.evaluation, COLD, 1, None).hypotheses


def test_the_prompts_are_computed_once(trial: Trial) -> None:
    lengths: list[int] = []
    model = trial.base.load()
    hook = model.model.register_forward_hook(lambda _, args, out: lengths.append(args[0].shape[1]))
    decode_all(trial.evaluation, [Request(COLD, 1), Request(replace(WARM, repeats=12), 1)], None)
    hook.remove()
    assert sum(length > 1 for length in lengths) == 2, "a batch of eight and one of one"
    assert isinstance(model, torch.nn.Module)


def test_scores_are_kept_for_all_that_they_depend_on(trial: Trial, private_store: Path) -> None:
    evaluation = trial.evaluation
    cold, warm = decode_all(evaluation, [Request(COLD, 1), Request(WARM, 1)], None)
    about = evaluation.surroundings
    recordings = {key: row["recording"] for key, row in about.items()}
    for transcripts in (cold, warm):
        for options in (ScoringOptions(), ScoringOptions(erhua=False, terms=("一",))):
            given = (evaluation.references, transcripts.hypotheses)
            scores, rows = score_repeats(*given, recordings, options), utterance_rows(*given, about, options)
            for _ in ("computed", "read"):
                own = {"truncated_outputs": evaluation.scores(transcripts, options)["truncated_outputs"]}
                assert json.dumps(evaluation.scores(transcripts, options)) == json.dumps(scores | own)
                told = [json.loads(line) for line in evaluation.utterances(transcripts, options).splitlines()]
                assert [{key: row[key] for key in row if key != "truncated"} for row in told] == rows
    assert len(list((private_store / "scores").glob("[!.]*"))) == 8


@pytest.mark.parametrize("changed", ["manifest", "base"])
def test_what_changes_while_it_is_decoded_is_refused(
    trial_config: Callable[..., TrainConfig],
    coded_manifests: Path,
    tmp_path: Path,
    changed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nothing stays of it, for a later start with the files as they were would go on from it."""
    monkeypatch.setattr("kimi_audio_ft.decoding.transcripts.SAVE_EVERY", 0.0)
    manifest = Path(shutil.copy(coded_manifests / "eval.jsonl", tmp_path / "eval.jsonl"))
    base = shutil.copytree(TINY_MODEL, tmp_path / "base")
    trial = Trial(trial_config(data={"eval_manifest": str(manifest)}, model={"path": str(base)}))

    path, file = (manifest, manifest) if changed == "manifest" else (base, base / "config.json")

    def edit(done: int, total: int) -> None:
        if done == total:  # another file in its place: reading one that is edited fails by itself
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            draft = tmp_path / "draft"
            draft.write_text("".join(lines[1:] if changed == "manifest" else [*lines, "\n"]), encoding="utf-8")
            draft.replace(file)

    with pytest.raises(ChangedError, match=rf"^{path}: changed while it was being decoded"):
        decode_all(trial.evaluation, [Request(COLD, 1)], None, on_progress=edit)
    assert listing() == [] and not list(store.product_path("transcript", "x").parent.glob(".*.work"))


def test_truncated_answers_are_counted_in_the_scores_and_marked(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    """So hot that hardly an answer ends by itself; a limit of three tokens cuts it."""
    evaluation, options, hot = trial.evaluation, ScoringOptions(), replace(WARM, repeats=1)
    found = decode(evaluation, hot, 1, None)
    again = decode(evaluation, hot, 1, None)
    cut = {key for key, answer in found.hypotheses[0].items() if answer.is_cut}
    assert cut == {key for key, answer in again.hypotheses[0].items() if answer.is_cut}, "the store keeps it"
    rows = [json.loads(line) for line in evaluation.utterances(again, options).splitlines()]
    assert evaluation.scores(again, options)["truncated_outputs"] == len(cut) > 0
    assert {row["id"] for row in rows if row.get("truncated")} == cut
    with caplog.at_level("WARNING"):
        scores_of(trial.base, evaluation, again, options, "t", "base", {})
    assert f"{len(cut)} of {UTTERANCES} answers were cut off by decoding.max_new_tokens" in caplog.text


def test_a_conversation_beyond_the_models_positions_is_refused(trial: Trial) -> None:
    evaluation = trial.evaluation
    lengths = evaluation.conversations.lengths(trial.base.tokenizer)[:, 0]
    require_positions(evaluation.conversations.parts[0], trial.base.tokenizer, int(lengths.max()))
    with pytest.raises(DataError, match=rf"takes {lengths.max()} positions, and the model has {lengths.max() - 1}"):
        require_positions(evaluation.conversations.parts[0], trial.base.tokenizer, int(lengths.max()) - 1)
    assert trial.base.positions == 8192


def test_in_bf16_the_batch_size_belongs_to_a_transcript(trial_config: Callable[..., TrainConfig]) -> None:
    """Rows of a bf16 product depend on their number; in float32 all sizes share one transcript (above)."""
    trial = Trial(trial_config(model={"dtype": "bfloat16"}))
    two, eight = (Request(replace(COLD, batch_size=size), 1) for size in (2, 8))
    assert not {*transcript_signatures(trial.evaluation, two, None)} & {
        *transcript_signatures(trial.evaluation, eight, None)
    }
    several = decode_all(trial.evaluation, [eight, two, eight], None)
    assert [found.signatures for found in several] == [
        transcript_signatures(trial.evaluation, request, None) for request in (eight, two, eight)
    ]
    metas = [store.read_meta(store.product_path("transcript", found.signatures[0])) for found in several]
    assert [meta["decoding"]["batch_size"] for meta in metas] == [8, 2, 8]


def test_references_without_a_letter_are_refused(
    trial_config: Callable[..., TrainConfig], coded_manifests: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "silent.jsonl"
    rows = [json.loads(line) for line in (coded_manifests / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["conversation"][-1]["content"] = " 。"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = trial_config(data={"eval_manifest": str(manifest), "features": "none"})
    with pytest.raises(DataError, match=r"silent\.jsonl: no reference has a letter or a digit"):
        _ = Trial(config).evaluation
    rows[-1]["conversation"][-1]["content"] = "好"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert len(Trial(config).evaluation.references) == len(rows)
