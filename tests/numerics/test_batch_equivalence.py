"""A batch of n is n batches of one, whatever the padding; features fit their codes in length and number format."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kimi_audio_ft.data.dataset import Sample, make_batch
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.manifest.conversation import layout_conversation
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM, TextTokenizer, WhisperFeatureExtractor
from kimi_audio_ft.model.audio_frontend import num_audio_tokens
from kimi_audio_ft.model.text_tokenizer import SPECIAL_TOKENS
from tests.numerics.closeness import assert_close

FIRST_CODE = 256 + len(SPECIAL_TOKENS)
FEATURE_DIM = 96
# The shape of the golden data's model (shared/golden/llm.json), with room for all special tokens.
CONFIG: dict[str, Any] = {
    "vocab_size": FIRST_CODE + 100,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "kimia_mimo_layers": 2,
    "kimia_mimo_transformer_from_layer_index": 2,
    "kimia_token_offset": FIRST_CODE,
    "kimia_adaptor_input_dim": FEATURE_DIM,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}


@pytest.fixture(scope="module")
def model() -> KimiAudioForCausalLM:
    torch.manual_seed(2)
    return KimiAudioForCausalLM(KimiAudioConfig(**CONFIG)).eval()


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    specials = {name: number for number, name in enumerate(SPECIAL_TOKENS, start=256)}
    return TextTokenizer({bytes([value]): value for value in range(256)}, specials)


@pytest.fixture(scope="module")
def samples(tokenizer: TextTokenizer) -> list[Sample]:
    """Five conversations: one audio, two audios, none, two turns with audio, an answer in audio."""
    rng, generator = random.Random(5), torch.Generator().manual_seed(5)

    def text(role: str, content: str) -> dict[str, Any]:
        return {"role": role, "message_type": "text", "content": content}

    def audio(length: int, role: str = "user") -> dict[str, Any]:
        codes = [rng.randrange(FIRST_CODE, CONFIG["vocab_size"]) for _ in range(length)]
        return {"role": role, "message_type": "audio", "audio_tokens": codes}

    conversations = [
        [text("user", "转录"), audio(5), text("assistant", "今天")],
        [text("user", "which?"), audio(3), audio(9), text("assistant", "the second")],
        [text("user", "hello"), text("assistant", "hi")],
        [text("user", "a"), audio(4), text("assistant", "b"), text("user", "c"), audio(2), text("assistant", "d")],
        [audio(11), text("assistant", "yes"), audio(2, "assistant")],
    ]
    return [
        Sample(
            str(index),
            layout_conversation(conversation, tokenizer, "understanding"),
            [
                torch.randn(len(message["audio_tokens"]), FEATURE_DIM, generator=generator)
                for message in conversation
                if message["message_type"] == "audio"
            ],
        )
        for index, conversation in enumerate(conversations)
    ]


def inputs(samples: list[Sample], pad_id: int, left: bool = False) -> dict[str, Any]:
    return make_batch(samples, pad_id, left=left)["inputs"]


@pytest.fixture
def batch(tokenizer: TextTokenizer, samples: list[Sample]) -> dict[str, Any]:
    """All conversations together."""
    return inputs(samples, tokenizer.pad_id)


@pytest.mark.bitwise
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_batch_is_its_conversations_one_by_one(
    model: KimiAudioForCausalLM, tokenizer: TextTokenizer, samples: list[Sample], left: bool, attention: str
) -> None:
    model.set_attn_implementation(attention)
    batch = inputs(samples, tokenizer.pad_id, left)
    with torch.no_grad():
        together = model(**batch)
        assert len({len(sample.layout) for sample in samples}) == len(samples)
        for row, sample in enumerate(samples):
            alone = model(**inputs([sample], tokenizer.pad_id))
            real = batch["attention_mask"][row].bool()
            assert int(real.sum()) == len(sample.layout)
            for name in ("text_logits", "audio_logits"):
                assert_close(getattr(together, name)[row, real], getattr(alone, name)[0])
    assert torch.isfinite(together.text_logits).all() and torch.isfinite(together.audio_logits).all()
    model.set_attn_implementation("sdpa")


def test_an_attention_mask_of_ones_is_none(
    model: KimiAudioForCausalLM, tokenizer: TextTokenizer, samples: list[Sample]
) -> None:
    batch = inputs(samples[1:2], tokenizer.pad_id)
    with torch.no_grad():
        masked, plain = model(**batch), model(**batch | {"attention_mask": None})
    assert_close(masked.text_logits, plain.text_logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_on_the_right_needs_no_mask(
    model: KimiAudioForCausalLM, tokenizer: TextTokenizer, samples: list[Sample], dtype: torch.dtype
) -> None:
    """Supervised logits are the same, bit for bit, with transformers' mask and without any; by places too."""
    batch, own = make_batch(samples, tokenizer.pad_id), copy.deepcopy(model).to(dtype)
    own.set_plain(decoder=True, whisper=True)  # the twin: the mask of the batch's padding, in transformers' layers
    given = {**batch["inputs"], "audio_branch": False, "right_padded": True}
    places = batch["answers"]["rows"] * batch["text_labels"].shape[1] + batch["answers"]["columns"]
    with torch.no_grad():
        masked = own(**given, text_positions=batch["text_loss_mask"]).text_logits
        own.masked = False
        for asked in (batch["text_loss_mask"], places):
            assert torch.equal(own(**given, text_positions=asked).text_logits, masked)


def test_every_conversation_hears_its_own_audio(
    model: KimiAudioForCausalLM, samples: list[Sample], batch: dict[str, Any]
) -> None:
    """Changing one audio's features changes its own conversation, from there on, and no other."""
    changed = batch | {"audio_features": [rows.clone() for rows in batch["audio_features"]]}
    changed["audio_features"][2] += 1.0  # the second audio of the second conversation
    with torch.no_grad():
        before, after = model(**batch).text_logits, model(**changed).text_logits
    differs = (before != after).any(dim=-1)
    start = [p for p, code in enumerate(samples[1].layout.is_continuous_mask) if code][3]
    assert differs[1, start : len(samples[1].layout)].all() and not differs[1, :start].any()
    assert not differs[[0, 2, 3, 4]].any()


@pytest.mark.parametrize("given", [torch.bfloat16, torch.float16, torch.float64])
def test_features_of_another_format_are_cast(
    model: KimiAudioForCausalLM, batch: dict[str, Any], given: torch.dtype
) -> None:
    rounded = [rows.to(given) for rows in batch["audio_features"]]
    with torch.no_grad():
        ours = model(**batch | {"audio_features": rounded})
        expected = model(**batch | {"audio_features": [rows.float() for rows in rounded]})
    assert ours.text_logits.dtype == torch.float32 and torch.equal(ours.text_logits, expected.text_logits)


def test_float32_features_on_a_bf16_model(model: KimiAudioForCausalLM, batch: dict[str, Any]) -> None:
    half = copy.deepcopy(model).to(torch.bfloat16)
    with torch.no_grad():
        ours = half(**batch)
        rounded = [rows.to(torch.bfloat16) for rows in batch["audio_features"]]
        expected = half(**batch | {"audio_features": rounded})
    assert ours.text_logits.dtype == ours.audio_logits.dtype == torch.bfloat16
    assert torch.equal(ours.text_logits, expected.text_logits)


def long_clip(tokenizer: TextTokenizer, num_codes: int, features: Tensor) -> dict[str, Any]:
    codes = [FIRST_CODE + index % 100 for index in range(num_codes)]
    message = {"role": "user", "message_type": "audio", "audio_tokens": codes}
    return inputs([Sample("0", layout_conversation([message], tokenizer, "understanding"), [features])], 0)


def test_a_clip_beyond_30_seconds(model: KimiAudioForCausalLM, tokenizer: TextTokenizer) -> None:
    """32.16 s are 402 codes; features of its first 30 s alone are 375 rows, which the published code takes."""
    torch.manual_seed(4)
    shape = {"d_model": 24, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    whisper = WhisperFeatureExtractor(shape | {"num_mel_bins": 16, "max_source_positions": 1500}).eval()
    clip = 0.1 * torch.randn(int(32.16 * 16000))
    whole, cut = whisper.encode([clip, clip[: 30 * 16000]])
    assert num_audio_tokens(len(clip)) == 402 and whole.shape == (402, FEATURE_DIM) and cut.shape == (375, FEATURE_DIM)
    with torch.no_grad():
        assert model(**long_clip(tokenizer, 402, whole)).text_logits.isfinite().all()
        with pytest.raises(UserError, match=r"audio_features\[0\]: shape \(375, 96\) for an audio of 402 codes"):
            model(**long_clip(tokenizer, 402, cut))
        with pytest.raises(UserError, match=r"shape \(402, 96\) for an audio of 375 codes"):
            model(**long_clip(tokenizer, 375, whole))


Gradients = Callable[[str], tuple[dict[str, Tensor], Counter[str]]]


@pytest.fixture
def gradients(model: KimiAudioForCausalLM, batch: dict[str, Any]) -> Iterator[Gradients]:
    """Computes gradients of both heads' sums of squares, and how often each layer's attention ran."""
    runs: Counter[str] = Counter()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: runs.update([name]))
        for name, module in model.named_modules()
        if name.endswith(".self_attn.q_proj")
    ]

    def compute(trained: str) -> tuple[dict[str, Tensor], Counter[str]]:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained in name)
            parameter.grad = None
        runs.clear()
        out = model(**batch)
        (out.text_logits.square().mean() + out.audio_logits.square().mean()).backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return found, runs.copy()

    yield compute
    for hook in hooks:
        hook.remove()
    model.gradient_checkpointing_disable()
    model.eval().zero_grad()


# With everything trained, and as in a LoRA training, where nothing before the first adapter needs a gradient.
@pytest.mark.filterwarnings("ignore:.*deprecated and will be removed in v6:FutureWarning")
@pytest.mark.parametrize("trained", ["", "q_proj", "layers.2.mlp.up_proj"])
def test_gradient_checkpointing_recomputes_and_changes_nothing(
    model: KimiAudioForCausalLM, gradients: Gradients, trained: str
) -> None:
    model.train()
    plain, once = gradients(trained)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    checkpointed, runs = gradients(trained)
    assert len(once) == len(runs) == 6 and set(once.values()) == {1} and set(runs.values()) == {2}
    assert plain.keys() == checkpointed.keys() and plain
    for name in plain:
        assert_close(checkpointed[name], plain[name], name=name)
