"""Real input: nine conversations with codes of the published tokenizer, and four LibriSpeech recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from experiments.published_layout import write_text_tokenizer
from kimi_audio_ft.config.commands import TokenizeConfig
from kimi_audio_ft.config.train import DataConfig, ModelConfig
from kimi_audio_ft.data.datamodule import BatchRules, ConversationData
from kimi_audio_ft.features.tokenize import tokenize
from kimi_audio_ft.manifest.audio import read_audio
from kimi_audio_ft.manifest.conversation import TokenRange
from kimi_audio_ft.manifest.manifest import read_manifest
from kimi_audio_ft.model import KimiAudioForCausalLM, TextTokenizer, num_audio_tokens
from kimi_audio_ft.model.config import PUBLISHED_7B
from kimi_audio_ft.store.digests import file_digest
from tests.unit.conftest import Tiny

TOKENS_7B = TokenRange(PUBLISHED_7B["kimia_token_offset"], PUBLISHED_7B["vocab_size"])
# Published ids: start of the user's and the assistant's message, media, answer in text, ends.
USER, ASSISTANT, BEGIN, END, ANSWER_TEXT = 151670, 151671, 151661, 151663, 151675
MESSAGE_END, BLANK, TEXT_EOS, PAD = 151645, 151666, 151667, 152063


@pytest.fixture(scope="module")
def codes_file(shared_dir: Path) -> Path:
    return shared_dir / "data" / "real_semantic_codes.jsonl"


@pytest.fixture(scope="module")
def tokenizer_7b(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """As many ranks as the published one, so its special ids; fillers of digits are never met in text."""
    folder = tmp_path_factory.mktemp("tokenizer_7b")
    ranks = {bytes([value]): value for value in range(256)}
    write_text_tokenizer(folder, ranks | {b"%06d" % rank: rank for rank in range(256, PUBLISHED_7B["num_base_tokens"])})
    return TextTokenizer.from_pretrained(folder)


@pytest.fixture
def data_7b(codes_file: Path, tokenizer_7b: TextTokenizer, tiny: Tiny) -> ConversationData:
    settings = DataConfig(str(codes_file), str(codes_file), features="none", batch_size=4)
    rules = BatchRules(accumulate=2, average="token", seed=1)
    data = ConversationData(settings, tokenizer_7b, tiny.encoders(features=False), TOKENS_7B, rules)
    data.setup()
    return data


def parts(row: dict[str, Any]) -> tuple[str, list[int], str]:
    """Prompt, codes and answer of a line."""
    prompt, audio, answer = row["conversation"]
    return prompt["content"], audio["audio_tokens"], answer["content"]


def test_layouts_of_the_real_conversations(
    data_7b: ConversationData, codes_file: Path, tokenizer_7b: TextTokenizer
) -> None:
    """total = prompt + codes + 6 control positions, + answer + 1 (text_eos) + 1 (msg_end)."""
    lines = [json.loads(line) for line in codes_file.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(data_7b.train_set) == 9 and not data_7b.left_out
    for index, line in enumerate(lines):
        prompt, codes, answer = parts(line)
        prompt_ids, answer_ids = tokenizer_7b.encode(prompt), tokenizer_7b.encode(answer)
        sample = data_7b.train_set[index]
        layout, blanks = sample.layout, [BLANK] * len(codes)
        assert sample.reference == answer and len(prompt_ids) == len(prompt.encode())
        assert len(layout) == len(prompt_ids) + len(codes) + 6 + len(answer_ids) + 1 + 1
        before = [USER, *[BLANK] * len(prompt_ids), BEGIN, *codes, END, ANSWER_TEXT, MESSAGE_END, ASSISTANT]
        assert layout.audio_ids == [*before, *[BLANK] * (len(answer_ids) + 1), MESSAGE_END]
        text = [BLANK, *prompt_ids, BLANK, *blanks, BLANK, BLANK, BLANK, BLANK, *answer_ids, TEXT_EOS, BLANK]
        assert layout.text_ids == text
        lost = [position for position, on in enumerate(layout.text_loss_mask) if on]
        start = len(prompt_ids) + len(codes) + 6
        assert lost == list(range(start, start + len(answer_ids) + 1)) and not any(layout.audio_loss_mask)


def test_batches_of_the_real_conversations(data_7b: ConversationData) -> None:
    by_name = {data_7b.train_set[index].id: data_7b.train_set[index].layout for index in range(9)}
    steps = list(data_7b.train_dataloader())
    batches = [batch for step in steps for batch in step]
    assert sorted(name for batch in batches for name in batch["ids"]) == sorted(by_name)
    assert all(len(step) == 2 for step in steps[:-1])
    for step in steps:
        supervised = sum(int(batch["text_loss_mask"].sum()) for batch in step)
        assert all(batch["weight"] == pytest.approx(1 / supervised) for batch in step)
    for batch in batches:
        inputs = batch["inputs"]
        assert inputs["audio_features"] is None and inputs["input_ids"].shape[1] == max(
            len(by_name[name]) for name in batch["ids"]
        )
        for row, name in enumerate(batch["ids"]):
            layout, length = by_name[name], len(by_name[name])
            assert inputs["attention_mask"][row].tolist() == [1] * length + [0] * (
                len(inputs["input_ids"][row]) - length
            )
            assert set(inputs["input_ids"][row, length:].tolist()) <= {PAD}
            mask = batch["text_loss_mask"][row]
            wanted = [number for number, on in zip(layout.text_ids, layout.text_loss_mask, strict=True) if on]
            assert batch["text_labels"][row][mask].tolist() == wanted and wanted[-1] == TEXT_EOS
            # The first answer token is predicted from the start of the assistant's message.
            assert inputs["input_ids"][row, mask.nonzero()[0, 0]] == ASSISTANT


def test_generation_prompts_of_the_real_conversations(data_7b: ConversationData, codes_file: Path) -> None:
    prompts = data_7b.dataset(data_7b.eval_conversations, None, for_generation=True)
    for index in range(9):
        layout, prompt = data_7b.eval_set[index].layout, prompts[index].layout
        assert prompt.audio_ids == layout.audio_ids[: len(prompt)] and prompt.audio_ids[-1] == ASSISTANT
        assert prompt.text_ids == layout.text_ids[: len(prompt)] and not any(prompt.text_loss_mask)


def test_real_recordings(shared_dir: Path, tiny: Tiny, tmp_path: Path) -> None:
    """Read, tokenized and batched: a code and a feature row for every 80 ms, and the model takes them."""
    manifest = shared_dir / "audio" / "librispeech_asr.jsonl"
    model_config = ModelConfig(dtype="float32")
    (coded,) = tokenize(TokenizeConfig([str(manifest)], out=str(tmp_path), model=model_config, progress=False))
    conversations, store = read_manifest(coded, tokens=tiny.tokens), tiny.encoders().store()
    assert len(conversations) == 4
    expected = []
    for conversation in conversations:
        (path,) = conversation.audio_paths
        info, waveform = soundfile.info(path), read_audio(path)
        assert (info.samplerate, len(waveform)) == (16000, info.frames) and waveform.abs().max() > 0.1
        expected.append(-(-info.frames // 1280))
        (codes,) = [m["audio_tokens"] for m in conversation.messages if m["message_type"] == "audio"]
        features = store.features(file_digest(path))
        assert len(codes) == len(features) == num_audio_tokens(len(waveform)) == expected[-1]
        assert torch.isfinite(features).all()
    assert min(expected) > 100
    settings = DataConfig(str(coded), str(coded), batch_size=4)
    data = ConversationData(settings, tiny.tokenizer, tiny.encoders(), tiny.tokens, BatchRules(1, "sample", 0))
    data.setup()
    ((batch,),) = data.train_dataloader()
    assert sorted(len(rows) for rows in batch["inputs"]["audio_features"]) == sorted(expected)
    model = KimiAudioForCausalLM.from_pretrained(tiny.encoders().files.root, audio_branch=False)
    with torch.no_grad():
        out = model(**batch["inputs"], audio_branch=False, text_positions=batch["text_loss_mask"])
    assert out.text_logits.isfinite().all() and len(out.text_logits) == int(batch["text_loss_mask"].sum()) > 4
