"""Prompts with hot words, another for each conversation: in a pack, resumed and in batches as alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_audio_ft import store
from kimi_audio_ft.config.prompt import PromptConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.retrieval import most_alike
from kimi_audio_ft.decoding.transcribe import transcribe
from kimi_audio_ft.decoding.transcripts import decode_all
from kimi_audio_ft.manifest.hotwords import hotwords_facts, with_words
from kimi_audio_ft.runtime.signals import Interrupted
from kimi_audio_ft.scoring import ScoringOptions
from kimi_audio_ft.training.checkpoint import resume_step
from kimi_audio_ft.trial import Trial, scores_of
from tests.numerics.pack_lab import Lab
from tests.sameness import assert_same

Config = Callable[..., TrainConfig]
MEMBERS = ("a4", "a8")
WORDS = ("会议", "七千万", "5G", "江来", "市盈率", "沈嘉睿")


@pytest.fixture
def config(trial_config: Config, tmp_path: Path) -> TrainConfig:
    words = tmp_path / "words.txt"
    words.write_text("\n".join(WORDS), encoding="utf-8")
    prompt = PromptConfig(str(words), distractors=3)
    return trial_config(data={"batch_size": 4}, trainer={"max_epochs": 1}, prompt=prompt)


def test_a_pack_is_its_members_also_resumed(config: TrainConfig, lab: Lab) -> None:
    prompts = {one.messages[0]["content"] for one in Trial(config).inputs.trained_on(config)}
    assert len(prompts) > 8 and len(set(map(len, prompts))) > 3
    with pytest.raises(Interrupted):
        lab.run(config, MEMBERS, {}, should_stop=lambda: True)
    assert resume_step([lab.place / "pack" / f"{name}.work" for name in MEMBERS]) == 1
    lab.run(config, MEMBERS, {})
    for name in MEMBERS:
        assert_same(lab.folder(name), lab.alone(config, name, {}))


def test_the_list_is_a_part_of_the_signatures(config: TrainConfig, tmp_path: Path) -> None:
    own, without = Trial(config).plan, Trial(replace(config, prompt=PromptConfig(distractors=1))).plan
    moved = tmp_path / "moved.txt"
    moved.write_text("# of the meetings\n" + "\n".join(WORDS), encoding="utf-8")
    assert Trial(replace(config, prompt=replace(config.prompt, hotwords=str(moved)))).plan == own
    moved.write_text("\n".join(WORDS[1:]), encoding="utf-8")
    other = Trial(replace(config, prompt=replace(config.prompt, hotwords=str(moved)))).plan
    drawn = Trial(replace(config, prompt=replace(config.prompt, distractors=2))).plan
    assert len({plan.adapter for plan in (own, without, other, drawn)}) == 4
    assert len({plan.base_transcripts for plan in (own, without, other)}) == 3
    assert drawn.base_transcripts == own.base_transcripts  # how training prompts are drawn is nothing to the base
    assert Trial(replace(config, prompt=PromptConfig())).plan == without


def test_a_batch_is_its_conversations_one_by_one(config: TrainConfig) -> None:
    evaluation = Trial(config).evaluation
    dataset, base = evaluation.dataset(progress=False, for_generation=True), evaluation.base
    assert all(one.messages[0]["content"] == f"转录\n热词：{'、'.join(WORDS)}" for one in dataset.conversations)
    request = DecodingRequest(replace(config.decoding, text_temperature=3.0, text_top_k=0), 0)  # greedily it is silent
    with base.saved_adapter(None) as model:
        given = (model, dataset, base.tokenizer, [request], base.tokens.first)
        together = transcribe(*given)
        alone = transcribe(*given, batches=[[index] for index in range(len(dataset))])
    assert together == alone and any(together[0].values())


def test_words_are_chosen_by_a_first_text(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first text is the transcript without hot words, whatever the settings are that are asked for."""
    settings = replace(config.decoding, text_temperature=3.0, text_top_k=0)
    config = replace(config, prompt=replace(config.prompt, retrieve=2))
    evaluation, plain = Trial(config).evaluation, Trial(replace(config, prompt=PromptConfig())).evaluation
    texts = {one.id: one.reference for one in plain.conversations}
    prompts = {one.id: one.messages[0]["content"] for one in evaluation.retrieved(texts)}
    assert prompts == {name: with_words("转录", most_alike(WORDS, text, 2)) for name, text in texts.items()}
    [first] = decode_all(plain, [DecodingRequest.first_pass(config.decoding)], None)
    asked = evaluation.retrieved(first.hypotheses[0])
    sampled, later = DecodingRequest(settings, 0), DecodingRequest(settings, 7)
    [alone] = decode_all(evaluation, [sampled], None)
    [again, _] = decode_all(evaluation, [sampled, DecodingRequest(settings, 1)], None)
    dataset = evaluation.dataset(progress=False, for_generation=True, conversations=asked)
    with evaluation.base.saved_adapter(None) as model:
        given = (model, dataset, evaluation.base.tokenizer)
        expected, late = (transcribe(*given, [one], evaluation.base.tokens.first) for one in (sampled, later))
    assert alone.hypotheses == again.hypotheses == expected and alone.signatures == again.signatures
    with monkeypatch.context() as patch:  # it goes between the first look for it and the one under its lock
        patch.setattr(store, "find", lambda kind, name: store.product_path(kind, name))
        assert decode_all(evaluation, [later], None)[0].hypotheses == late
    scores = [
        scores_of(one.base, one, found, ScoringOptions(), "t", "base", {})
        for one, found in ((evaluation, alone), (plain, first))
    ]
    assert [one.get("hotwords_identity") for one in scores] == [hotwords_facts(WORDS)["hotwords_identity"], None]
    more = Trial(replace(config, prompt=replace(config.prompt, retrieve=3))).plan
    assert len({plan.base_transcripts for plan in (more, Trial(config).plan)}) == 2
    assert more.adapter == Trial(config).plan.adapter
