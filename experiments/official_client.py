"""Does the published inference code compute with a merged folder what we compute?

    PYTHON_OF_ITS_ENVIRONMENT experiments/official_client.py record CHECKOUT MERGED MANIFEST.tokens.jsonl OUT
    python -m experiments.official_client compare MERGED MANIFEST.tokens.jsonl OUT EVALUATION [EVALUATION ...]

``record`` runs in the published code's own environment, imports nothing of this package and writes what that code
computes; ``compare`` runs in ours and prints a table. Commands and figures: ``official_client.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TENSORS, TEXTS = "recorded.safetensors", "recorded.jsonl"
MOST_TOKENS = 256
# Where the published code looks for the speech tokenizer: a hub id, which a folder of that name stands in for.
SPEECH_TOKENIZER = Path("THUDM/glm-4-voice-tokenizer")
Message = dict[str, Any]


def record(checkout: Path, merged: Path, manifest: Path, out: Path) -> None:
    """Codes, prompt ids, features, logits and greedy transcripts of every conversation, by the published code."""
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(out / "modules")}
    place = out / SPEECH_TOKENIZER
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(merged / "glm-4-voice-tokenizer")
    os.chdir(out)
    sys.path.insert(0, str(checkout))
    _replace_what_needs_a_gpu()
    from kimia_infer.api.kimia import KimiAudio  # in the checkout

    client = KimiAudio(str(merged), load_detokenizer=False)
    tensors: dict[str, Tensor] = {}
    with (out / TEXTS).open("w", encoding="utf-8") as file:
        for number, (name, messages) in enumerate(_prompts(manifest)):
            for key, value in _recorded(client, messages).items():
                tensors[f"{number}.{key}"] = value.contiguous()
            _, text = client.generate(messages, output_type="text", max_new_tokens=MOST_TOKENS)
            file.write(json.dumps({"id": name, "text": text}, ensure_ascii=False) + "\n")
    save_file(tensors, out / TENSORS)


def _prompts(manifest: Path) -> list[tuple[str, list[Message]]]:
    """Id and user messages of every conversation, with absolute paths, and without our codes."""
    found = []
    for line in manifest.read_text(encoding="utf-8").splitlines():
        value = json.loads(line)
        user = [message for message in value["conversation"] if message["role"] == "user"]
        messages = [{key: message[key] for key in message.keys() - {"audio_tokens"}} for message in user]
        for message in messages:
            if message["message_type"] == "audio":
                if message.keys() & {"start", "end", "channel"}:
                    sys.exit(f"{manifest}: {value['id']} is a part of a recording; the published code reads whole ones")
                message["content"] = str(manifest.parent / message["content"])
        found.append((value["id"], messages))
    return found


@torch.inference_mode()
def _recorded(client: Any, messages: list[Message]) -> dict[str, Tensor]:
    prompt = client.prompt_manager.get_prompt(messages, output_type="text")
    audio_ids, text_ids, is_audio = prompt.to_tensor()[:3]
    audio_logits, text_logits = client.alm.forward(
        input_ids=audio_ids,
        text_input_ids=text_ids,
        whisper_input_feature=prompt.continuous_feature,
        is_continuous_mask=is_audio,
        position_ids=torch.arange(audio_ids.shape[1]).unsqueeze(0),
        return_dict=False,
    )[:2]
    ids = {"audio_ids": audio_ids[0], "text_ids": text_ids[0], "is_audio": is_audio[0]}
    features = torch.cat([rows[0] for rows in prompt.continuous_feature])
    return ids | {"features": features, "audio_logits": audio_logits[0], "text_logits": text_logits[0]}


def _replace_what_needs_a_gpu() -> None:
    """PyTorch's attention for flash-attn, the CPU for the current GPU, no vocoder; nothing else is changed."""
    import transformers.modeling_utils

    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment,return-value]
    transformers.utils.is_flash_attn_2_available = lambda: True
    for name in ("flash_attn", "flash_attn.bert_padding", "kimia_infer.models.detokenizer"):
        module: Any = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        # Names that are imported and, for one text answer at a time, never called.
        for unused in ("flash_attn_varlen_func", "flash_attn_qkvpacked_func", "flash_attn_varlen_qkvpacked_func"):
            setattr(module, unused, None)
        module.index_first_axis = module.pad_input = module.unpad_input = module.get_audio_detokenizer = None
        module.flash_attn_func = _attention
        sys.modules[name] = module


def _attention(
    q_BSHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    """``flash_attn_func`` of unpadded sequences: S queries are the last of T keys, one of them or all."""
    queries, keys = q_BSHD.shape[1], k_BTGD.shape[1]
    assert not return_attn_probs and dropout_p == 0 and (not causal or queries in (1, keys))
    q, k, v = (tensor.transpose(1, 2) for tensor in (q_BSHD, k_BTGD, v_BTGD))
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    mixed = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=causal and queries > 1, scale=softmax_scale
    )
    return mixed.transpose(1, 2).contiguous()


@torch.inference_mode()
def compare(merged: Path, manifest: Path, out: Path, evaluations: list[Path]) -> None:
    """Print a table of what is equal; ``evaluations`` are folders of ``evaluate`` with this base and manifest."""
    from kimi_audio_ft.base import Base
    from kimi_audio_ft.config.train import DecodingConfig, ModelConfig
    from kimi_audio_ft.decoding.generate import generate_texts
    from kimi_audio_ft.files import read_jsonl
    from kimi_audio_ft.manifest.audio import read_audio
    from kimi_audio_ft.manifest.conversation import BLANK, TEXT_EOS, layout_conversation
    from kimi_audio_ft.model import WhisperFeatureExtractor

    base = Base(ModelConfig(path=str(merged), dtype="bfloat16"), "none", "cpu", threads=1)
    base.about_to_compute()
    model = base.load(audio_branch=True)
    whisper = WhisperFeatureExtractor.from_pretrained(base.files.whisper, torch.bfloat16)
    theirs, texts = load_file(out / TENSORS), [line["text"] for line in read_jsonl(out / TEXTS)]
    ends = (base.tokenizer.special_tokens[TEXT_EOS], base.tokenizer.special_tokens[BLANK])
    settings = [DecodingConfig(max_new_tokens=MOST_TOKENS)]
    equal: dict[str, int] = {}
    apart: dict[str, float] = {}
    lines = read_jsonl(manifest)
    for number, (line, text) in enumerate(zip(lines, texts, strict=True)):
        one = {key: theirs[f"{number}.{key}"] for key in ("audio_ids", "text_ids", "is_audio", "features")}
        layout = layout_conversation(line["conversation"], base.tokenizer, line["task_type"], for_generation=True)
        spoken = [message for message in line["conversation"] if message["message_type"] == "audio"]
        codes = [code for message in spoken for code in message["audio_tokens"]]
        rows = whisper.encode([read_audio(manifest.parent / message["content"]) for message in spoken])
        given = ("input_ids", "audio_ids"), ("text_input_ids", "text_ids"), ("is_continuous_mask", "is_audio")
        inputs: dict[str, Any] = {name: one[key].unsqueeze(0) for name, key in given}
        inputs |= {"audio_features": [one["features"]], "attention_mask": torch.ones_like(inputs["input_ids"])}
        found = model(**inputs)
        ((answer,),) = generate_texts(model, inputs, settings, [[0]], *ends)
        for key, ours, their in (
            ("codes", torch.tensor(codes), one["audio_ids"][one["is_audio"]]),
            ("audio stream of the prompt", torch.tensor(layout.audio_ids), one["audio_ids"]),
            ("text stream of the prompt", torch.tensor(layout.text_ids), one["text_ids"]),
            ("Whisper features, bf16", torch.cat(rows), one["features"]),
            ("text logits of equal features, bf16", found.text_logits[0], theirs[f"{number}.text_logits"]),
            ("audio logits of equal features, bf16", found.audio_logits[0], theirs[f"{number}.audio_logits"]),
        ):
            equal[key] = equal.get(key, 0) + torch.equal(ours, their)
            if ours.shape == their.shape and ours.is_floating_point():
                apart[key] = max(apart.get(key, 0.0), float((ours.float() - their.float()).abs().max()))
        key = "greedy transcripts of equal features, bf16"
        equal[key] = equal.get(key, 0) + (base.tokenizer.decode(answer, skip_special=True) == text)
    for folder in evaluations:
        ours_by_id = {row["id"]: row["hypothesis"] for row in read_jsonl(folder / "utterances.jsonl")}
        found_again = [ours_by_id[str(line["id"])] == text for line, text in zip(lines, texts, strict=True)]
        equal[f"greedy transcripts of {folder.name}"] = sum(found_again)
    print(f"| what | equal, of {len(lines)} | largest difference |\n|---|---|---|")
    for key, count in equal.items():
        print(f"| {key} | {count} | {apart.get(key, '')} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("checkout", type=Path)
    comparing = commands.add_parser("compare")
    for one in (recording, comparing):
        for name in ("merged", "manifest", "out"):
            one.add_argument(name, type=lambda text: Path(text).resolve())
    comparing.add_argument("evaluations", type=Path, nargs="*")
    options = parser.parse_args()
    if options.command == "record":
        record(options.checkout.resolve(), options.merged, options.manifest, options.out)
    else:
        compare(options.merged, options.manifest, options.out, options.evaluations)


if __name__ == "__main__":
    main()
