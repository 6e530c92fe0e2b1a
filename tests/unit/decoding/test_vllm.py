"""Decoding by vLLM: what it is handed, what becomes of its answers, and what is kept when it dies.

The engine here is none: a small program with its interface, or one that answers as it is told.
tests/numerics/test_vllm.py has the real one.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kimi_audio_ft import store
from kimi_audio_ft.config.prompt import PromptConfig
from kimi_audio_ft.config.train import DecodingConfig, EvaluateConfig, LoraConfig, TrainConfig, VllmConfig
from kimi_audio_ft.decoding.generate import utterance_seed
from kimi_audio_ft.decoding.kept import vllm_kept
from kimi_audio_ft.decoding.request import DecodingRequest as Request
from kimi_audio_ft.decoding.transcripts import decode_all, transcript_signatures
from kimi_audio_ft.decoding.vllm import qwen2_folder
from kimi_audio_ft.errors import ConfigError, DataError, UserError
from kimi_audio_ft.evaluate import evaluate
from kimi_audio_ft.lora.adapter import add_adapter, save_adapter
from kimi_audio_ft.runtime.signals import Interrupted
from kimi_audio_ft.trial import Trial

COLD = DecodingConfig(text_temperature=0.0, max_new_tokens=6)
WARM = DecodingConfig(text_temperature=0.7, text_top_k=9, max_new_tokens=4, repeats=2)

# The part of vLLM's interface that is used, over a Qwen2 in plain PyTorch: importing transformers' takes seconds.
VLLM = """
import json
from pathlib import Path
import torch
from torch.nn.functional import linear, scaled_dot_product_attention, silu
from safetensors.torch import load_file

__version__ = "none"

class Given:
    def __init__(self, *args, **given):
        self.__dict__.update(given, args=args)

class EngineArgs(Given): pass
class SamplingParams(Given): pass

class LLMEngine:
    @classmethod
    def from_engine_args(cls, given):
        assert given.enable_prompt_embeds and given.skip_tokenizer_init and given.dtype == "float32"
        engine, folder = cls(), Path(given.model)
        engine.config = Given(**json.loads((folder / "config.json").read_text()))
        engine.plain = {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
        engine.rank, engine.rows = getattr(given, "max_lora_rank", 0), []
        print("a line for the log", flush=True)
        return engine

    def add_request(self, name, prompt, sampling, lora_request=None):
        self.rows.append((name, prompt["prompt_embeds"], sampling, lora_request))

    def has_unfinished_requests(self):
        return bool(self.rows)

    def step(self):
        name, x, sampling, lora = self.rows.pop()
        state, tokens = self.with_adapter(lora), []
        while len(tokens) < sampling.max_tokens and not set(tokens[-1:]) & set(sampling.stop_token_ids):
            tokens.append(int(self.logits(x, state).argmax()))
            x = torch.cat([x, state["model.embed_tokens.weight"][tokens[-1:]]])
        return [Given(request_id=name, finished=True, outputs=[Given(token_ids=tokens, logprobs=None)])]

    def with_adapter(self, lora):
        state = dict(self.plain)
        if lora is not None:
            folder = Path(lora.args[2])
            config = json.loads((folder / "adapter_config.json").read_text())
            tensors = load_file(folder / "adapter_model.safetensors")
            assert config["r"] <= self.rank
            for name in [name for name in tensors if name.endswith("lora_A.weight")]:
                update = tensors[name.replace("lora_A", "lora_B")] @ tensors[name] * config["lora_alpha"] / config["r"]
                weight = name.removeprefix("base_model.model.").replace(".lora_A", "")
                state[weight] = state[weight] + update
        return state

    def logits(self, x, state):
        config = self.config
        size = config.hidden_size // config.num_attention_heads
        angles = torch.arange(len(x))[:, None] / config.rope_theta ** (torch.arange(0, size, 2) / size)
        cos, sin = (f(angles).repeat(1, 2) for f in (torch.cos, torch.sin))

        def norm(x, name):
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config.rms_norm_eps) * state[f"{name}.weight"]

        def project(x, name):
            return linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

        def heads(x, name, turned=True):
            x = project(x, name).unflatten(-1, (-1, size)).transpose(0, 1)
            one, two = x.chunk(2, -1)
            return x * cos + torch.cat([-two, one], -1) * sin if turned else x

        for number in range(config.num_hidden_layers):
            at = f"model.layers.{number}"
            y = norm(x, f"{at}.input_layernorm")
            q, k, v = (heads(y, f"{at}.self_attn.{n}_proj", n != "v") for n in "qkv")
            k, v = (one.repeat_interleave(len(q) // len(one), 0) for one in (k, v))
            y = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).flatten(1)
            x = x + project(y, f"{at}.self_attn.o_proj")
            y = norm(x, f"{at}.post_attention_layernorm")
            y = silu(project(y, f"{at}.mlp.gate_proj")) * project(y, f"{at}.mlp.up_proj")
            x = x + project(y, f"{at}.mlp.down_proj")
        return project(norm(x[-1], "model.norm"), "lm_head")
"""
# Notes its orders, answers so many rows with one token, the first of them cut off; and dies if that were not all.
SCRIPTED = """
import json, os, sys
say = lambda message: print(json.dumps(message), flush=True)
left, notes = {rows}, open({notes!r}, "a")
for line in sys.stdin:
    order = json.loads(line)
    print(line, file=notes, flush=True)
    if "start" in order:
        say({{"ready": {{"vllm": "none"}}}})
    for row in order.get("rows", ()):
        if left == 0:
            os.kill(os.getpid(), 9)
        left -= 1
        tokens = [500] * row["sampling"]["max_tokens"] if row["prompt"] == "0" else [500, {end}]
        say({{"row": row["row"], "tokens": tokens, "log_probability": None}})
"""


@pytest.fixture(scope="module")
def qwen2(trial_config: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product of the store that vLLM reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path_factory.mktemp("qwen2")))
        return qwen2_folder(Trial(trial_config()).base)


@pytest.fixture
def trial(trial_config: Callable[..., TrainConfig], qwen2: Path, private_store: Path) -> Trial:
    shutil.copytree(qwen2, private_store / "qwen2" / qwen2.name)
    return Trial(trial_config())


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """Makes a program to name as ``decoding.vllm.python``."""

    def make(code: str, name: str = "python") -> str:
        path = tmp_path / name
        path.write_text(f"#!{sys.executable} -sE\n{code}")
        path.chmod(0o755)
        return str(path)

    return make


def by(python: str, setting: DecodingConfig, **options: Any) -> Request:
    return Request(replace(setting, engine="vllm", vllm=VllmConfig(python, options)), 1)


def saved(trial: Trial, folder: Path, **lora: Any) -> tuple[str, Path]:
    """An adapter that changes what is said."""
    adapted = add_adapter(trial.base.load(), LoraConfig(**lora), 1)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_adapter(adapted, folder)
    trial.base.release()
    return f"a{folder.name}", folder


@pytest.mark.slow
def test_the_native_texts_come_of_what_it_is_handed(
    trial: Trial, program: Callable[[str], str], tmp_path: Path
) -> None:
    """By two adapters and the base, in one engine; and beside native decodings of the same call."""
    (tmp_path / "vllm" / "lora").mkdir(parents=True)
    (tmp_path / "vllm" / "__init__.py").write_text(VLLM)
    (tmp_path / "vllm" / "lora" / "request.py").write_text("from vllm import Given as LoRARequest\n")
    python = program(
        f"import runpy, sys\nsys.path.insert(0, {str(tmp_path)!r})\nrunpy.run_path(sys.argv[2], run_name='__main__')\n"
    )
    adapters = saved(trial, tmp_path / "four", r=4), None, saved(trial, tmp_path / "two", r=2, target_modules="mlp")
    requests = [by(python, COLD), Request(COLD, 1), by(python, replace(COLD, max_new_tokens=1))]
    with vllm_kept(rank=4):
        found = [decode_all(trial.evaluation, requests, adapter) for adapter in adapters]
    for one, native, short in found:
        assert one.hypotheses == native.hypotheses and one.signatures != native.signatures
        assert one.environment is not None and one.environment["vllm"]["vllm"] == "none"
        cut = [[answer.is_cut for answer in found.hypotheses[0].values()] for found in (one, native, short)]
        assert cut[0] == cut[1]
    texts = [list(one.hypotheses[0].values()) for one, _, _ in found]
    assert len(set(map(tuple, texts))) == 3 and any(len(text) == 6 for text in texts[0])
    assert found[0][2].hypotheses == [{key: text[:1] for key, text in found[0][1].hypotheses[0].items()}]


def test_a_death_costs_what_was_being_decoded(trial: Trial, program: Callable[[str], str], tmp_path: Path) -> None:
    notes, end = tmp_path / "notes", trial.base.tokenizer.special_tokens["<|im_kimia_text_eos|>"]

    def request(rows: int) -> Request:
        return by(program(SCRIPTED.format(rows=rows, notes=str(notes), end=end)), WARM)

    told: list[tuple[int, int]] = []
    with pytest.raises(UserError, match=r"^decoding.engine=vllm: vLLM ended \(signal SIGKILL\) while it was decoding"):
        decode_all(trial.evaluation, [request(7)], None, on_progress=lambda *point: told.append(point))
    assert told == [(2, 18), (4, 18), (6, 18)]  # two samples of three conversations
    [found] = decode_all(trial.evaluation, [request(99)], None, on_progress=lambda *point: told.append(point))
    assert [point[0] for point in told[3:]] == list(range(8, 19, 2))

    orders = [json.loads(line) for line in notes.read_text().split("\n") if line]
    starts, rows = [one["start"] for one in orders if "start" in one], [one["rows"] for one in orders if "rows" in one]
    assert [len(some) for some in rows] == [18, 12] and starts[0] == starts[1]
    assert starts[0] | {"model": ""} == {
        **{"model": "", "dtype": "float32", "max_model_len": 8192},
        **{"enable_prompt_embeds": True, "skip_tokenizer_init": True},
    }
    wanted = {utterance_seed(1, repeat, key) for repeat in (0, 1) for key in trial.evaluation.references}
    assert {row["sampling"].pop("seed") for row in rows[0]} == wanted
    sampling = {"temperature": 0.7, "top_k": 9, "max_tokens": 4, "stop_token_ids": [end], "ignore_eos": True}
    assert all(row["sampling"] == sampling for row in rows[0])
    answers = [*found.hypotheses[0].values(), *found.hypotheses[1].values()]
    text = trial.base.tokenizer.decode([500])
    assert {(str(one), one.is_cut) for one in answers} == {(text, False), (4 * text, True)}
    meta = store.read_meta(store.product_path("transcript", found.signatures[0]))
    assert meta["decoding"]["engine"] == "vllm" and meta["environment"]["vllm"] == {"vllm": "none"}


def test_what_it_cannot_apply_is_refused_before_it_is_started(
    trial: Trial, trial_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """By the config where that tells, before anything is trained; else by the adapter's files."""
    setting = {"decoding": {"engine": "vllm", "vllm": VllmConfig(sys.executable)}}
    with pytest.raises(ConfigError, match=r"changes model.vq_adaptor.layers.0, and decoding.engine=vllm"):
        _ = Trial(
            trial_config(**setting, lora={"target_modules": "decoder_and_adaptor"}, data={"features": "cached"})
        ).plan
    for changes, said in (
        ({"lora": {"use_dora": True}}, "lora.use_dora=True: decoding.engine=vllm applies plain LoRA only"),
        ({"lora": {"r": 513}}, "lora.r=513: decoding.engine=vllm applies ranks up to 512. Use decoding.engine=native"),
        ({"model": {"quantization": "nf4"}}, "model.quantization='nf4': decoding.engine=vllm decodes with a base in"),
        ({"data": {"features": "online"}}, "data.features='online': decoding.engine=vllm hears recordings by stored"),
    ):
        with pytest.raises(ConfigError, match=said):
            trial_config(**setting, **changes)
    missing = {"engine": "vllm", "vllm": VllmConfig("no/such/python")}
    with pytest.raises(ConfigError, match=r"decoding\.vllm\.python=.no/such/python.: cannot be started"):
        _ = Trial(trial_config(decoding=missing)).plan
    request = by(sys.executable, COLD)
    for name, lora, said in (
        ("dora", {"use_dora": True}, "has use_dora, which engines do not apply. Use decoding.engine=native"),
        (
            "high",
            {"r": 513, "target_modules": r"model\.layers\.0\.mlp\.up_proj"},
            "has rank 513, and vLLM takes at most",
        ),
    ):
        with pytest.raises(DataError, match=said):
            decode_all(trial.evaluation, [request], saved(trial, tmp_path / name, **lora))
    assert all(store.find("transcript", name) is None for name in transcript_signatures(trial.evaluation, request, "x"))


def test_one_that_cannot_be_started_is_started_once_for_all(
    trial: Trial, program: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each adapter again, as long as it is asked for with the same options."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    notes = tmp_path / "notes"
    note = f"open({str(notes)!r}, 'a').write(repr(os.environ['CUDA_VISIBLE_DEVICES']) + input() + '\\n')"
    python = program(f"import os\n{note}\nraise SystemExit('no room')")
    with vllm_kept(rank=600):  # an adapter of that rank fails by itself, and no other one because of it
        for options in ({}, {}, {"seed": 1}, {}):
            with pytest.raises(UserError, match=r"ended \(exit code 1\) while it was starting.*\n  no room"):
                decode_all(trial.evaluation, [by(python, COLD, **options)], None)
    lines = notes.read_text().splitlines()
    assert len(lines) == 2 and all(line.startswith("''") for line in lines), "trainer.accelerator=cpu"
    assert json.loads(lines[0][2:])["start"]["max_lora_rank"] == 512


def test_both_passes_of_an_evaluation_are_by_one_engine(
    trial: Trial, program: Callable[[str], str], tmp_path: Path
) -> None:
    notes, end = tmp_path / "notes", trial.base.tokenizer.special_tokens["<|im_kimia_text_eos|>"]
    (tmp_path / "words.txt").write_text("陈凯\n李平", encoding="utf-8")
    python, config = program(SCRIPTED.format(rows=99, notes=str(notes), end=end)), trial.config
    evaluate(
        EvaluateConfig(
            data=config.data,
            prompt=PromptConfig(str(tmp_path / "words.txt"), retrieve=1),
            model=config.model,
            decoding=by(python, COLD).setting,
            trainer=config.trainer,
            logger=config.logger,
        ),
        tmp_path / "scores",
    )
    orders = [json.loads(line) for line in notes.read_text().split("\n") if line]
    assert ["start" in one for one in orders] == [True, False, False]


def test_the_base_is_written_where_there_is_room_until_it_is_to_stop(
    trial_config: Callable[..., TrainConfig], private_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Trial(trial_config()).base
    with pytest.raises(Interrupted):
        qwen2_folder(base, lambda: True)
    with (
        monkeypatch.context() as patch,
        pytest.raises(ConfigError, match=r"^KIMI_AUDIO_FT_STORE=.*: needs .* GB are free"),
    ):
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
        qwen2_folder(base)
    assert not list((private_store / "qwen2").rglob("*.safetensors"))
