"""A vLLM server that decodes: what it is sent, what is refused, and what becomes of requests while it is gone.

The server here is none, but says over HTTP what vLLM 0.32 says. tests/integration/test_serve_vllm.py has the real one.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.serve import ServeConfig
from kimi_audio_ft.config.train import DecodingConfig, ModelConfig, VllmConfig
from kimi_audio_ft.decoding.vllm import qwen2_folder
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.merging.prompt_embeddings import PromptEmbeddings
from kimi_audio_ft.serve.app import make_app
from kimi_audio_ft.serve.batch_queue import BatchQueue, Job, RequestRefused, Unavailable
from kimi_audio_ft.serve.service import Service
from kimi_audio_ft.store.make import META

NO_FLAG = "You must set `--enable-prompt-embeds` to input `prompt_embeds`."


@dataclass
class Vllm:
    """Answers as vLLM does: tokens and log probabilities depend on the embeddings that it is given, or has of the ids.

    refuses: status and message of what it refuses, given a request. asked: its requests. gone: it ends connections at
    once; the port stays its own.
    """

    table: Tensor
    end: int
    adapters: list[str] = field(default_factory=lambda: ["meetings", "calls"])
    refuses: Callable[[dict[str, Any]], tuple[int, str] | None] = lambda body: None
    asked: list[dict[str, Any]] = field(default_factory=list)
    key: str = ""
    held: Event = field(default_factory=Event)
    positions: int = 1024
    gone: bool = False

    def __enter__(self) -> Vllm:
        self.held.set()
        self._http = self._server()
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.held.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def _server(self) -> ThreadingHTTPServer:
        vllm = self

        class Server(ThreadingHTTPServer):
            def verify_request(self, *_: object) -> bool:
                return not vllm.gone

        return Server(("127.0.0.1", 0), self._handler())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        vllm = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                if self.path != "/health" and not self.has_key():
                    return
                base = {"id": "qwen2", "max_model_len": vllm.positions}
                cards = [base, *({"id": name, "parent": "qwen2"} for name in vllm.adapters)]
                self.say(200, {"data": cards})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                vllm.asked.append(body)
                vllm.held.wait()
                if not self.has_key():
                    return
                refused = vllm.refuses(body)
                if refused is not None:
                    self.say(refused[0], {"error": {"message": refused[1], "code": refused[0]}})
                else:
                    self.say(200, {"choices": vllm.choices(body)})

            def has_key(self) -> bool:
                has = not vllm.key or self.headers["Authorization"] == f"Bearer {vllm.key}"
                if not has:
                    self.say(401, {"error": "Unauthorized"})
                return has

            def say(self, status: int, facts: dict[str, Any]) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(facts).encode())

        return Handler

    def choices(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        prompts = [self.table[ids] for ids in body.get("prompt", [])] or list(map(unpacked, body["prompt_embeds"]))
        given = [rows for rows in prompts for _ in range(body["n"])]
        return [{"index": index, "logprobs": self.answer(rows, index)} for index, rows in enumerate(given)][::-1]

    def answer(self, rows: Tensor, index: int) -> dict[str, Any]:
        tokens = [300 + (len(rows) + index) % 100, self.end]
        said = [-float(rows.abs().mean()), -0.5]
        named = [f"token_id:{one}" for one in tokens]
        return {"tokens": named, "token_logprobs": said, "top_logprobs": [{named[0]: said[0]}]}


def unpacked(given: str) -> Tensor:
    return torch.load(io.BytesIO(base64.b64decode(given)), weights_only=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Qwen2 with its front end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path_factory.mktemp("store")))
        yield qwen2_folder(Base(ModelConfig(dtype="float32"), "none", "cpu"))


@pytest.fixture(scope="module")
def embeddings(folder: Path) -> PromptEmbeddings:
    return PromptEmbeddings.from_pretrained(folder)


@pytest.fixture
def vllm(folder: Path, embeddings: PromptEmbeddings) -> Iterator[Vllm]:
    end = Base(front_end(folder), "cached").tokenizer.special_tokens["<|im_kimia_text_eos|>"]
    with Vllm(embeddings.embed_tokens.weight.detach(), end) as found:
        yield found


def front_end(folder: Path) -> ModelConfig:
    return ModelConfig(str(folder / "front_end"), dtype="float32")


def service(folder: Path, vllm: Vllm, timeout: float = 60.0, **options: Any) -> Service:
    decoding = DecodingConfig(engine="vllm", vllm=VllmConfig(url=f"{vllm.url}/v1/", timeout=timeout))
    given = {"model": front_end(folder), "decoding": decoding, "cut": "windows"}
    return Service.of(ServeConfig(**{**given, **options}))


def job(service: Service, model: str = "base", temperature: float | None = None, key: str = "a") -> Job:
    """A second and a half of noise."""
    chosen, noise = service.models[model], torch.Generator().manual_seed(sum(key.encode()))
    requests = service.requests(chosen, temperature)
    return Job(key, 0, 0.1 * torch.randn(24_000, generator=noise), chosen.adapter, chosen.prompt, requests)


def test_what_it_is_sent_and_what_its_answers_become(
    folder: Path, vllm: Vllm, embeddings: PromptEmbeddings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / META).write_text(json.dumps({"prompt": "听写"}), encoding="utf-8")
    found = service(folder, vllm, adapters={"calls": str(tmp_path)})
    assert {name: (model.adapter, model.prompt == "听写") for name, model in found.models.items()} == {
        "base": (None, False),
        "calls": ("calls", True),
        "meetings": ("meetings", False),
    }
    assert capsys.readouterr().out.startswith("meetings: adapter of the vLLM server, asked with the default prompt")
    found.models["calls"].decoding.repeats = 3
    jobs = [job(found), job(found, "calls", 0.7), job(found, "meetings", key="b")]
    with BatchQueue(found.decoder(), 4) as queue:
        queue.submit(jobs)
        base, calls, _ = [one.answers.result(60) for one in jobs]
        assert (queue.decoded, queue.failed_in_a_row, queue.decoder.trouble()) == (3, 0, None)
    by_ids, by_rows, *asked = vllm.asked
    assert by_ids["prompt"] and by_rows["prompt_embeds"], "the embedding table is compared first"
    greedy, sampled, other = sorted(asked, key=lambda body: ["qwen2", "calls", "meetings"].index(body["model"]))
    assert (greedy["temperature"], greedy["n"], "seed" in greedy) == (0.0, 1, False)
    assert (sampled["temperature"], sampled["top_k"], sampled["n"], sampled["seed"] > 0) == (0.7, 5, 3, True)
    assert greedy["stop_token_ids"] == [vllm.end] and greedy["ignore_eos"] and greedy["repetition_penalty"] == 1.0
    rows = unpacked(greedy["prompt_embeds"][0])
    assert rows.shape[1] == embeddings.config.hidden_size and rows.dtype == torch.float32
    assert greedy["max_tokens"] == 256
    assert not torch.equal(rows, unpacked(other["prompt_embeds"][0]))
    tokenizer = found.base.tokenizer
    assert [str(one) for one in base] == [tokenizer.decode([300 + len(rows) % 100])]
    assert base[0].choices == 2 and base[0].log_probability == pytest.approx(-0.5 - float(rows.abs().mean()))
    of_calls = len(unpacked(sampled["prompt_embeds"][0]))
    assert [str(one) for one in calls] == [tokenizer.decode([300 + (of_calls + index) % 100]) for index in range(3)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"refuses": lambda body: (400, NO_FLAG) if "prompt_embeds" in body else None},
            "takes no prompt embeddings. Start it with --enable-prompt-embeds",
        ),
        (
            {"refuses": lambda body: (400, "token_id(s) [9] in logit_bias contain out-of-vocab token ids.")},
            "has another model than the front end .*out-of-vocab.*Start it with .*or set model.path",
        ),
        ({"table": None}, "has another model than the front end .log probabilities after the same tokens.* apart"),
        ({"key": "secret"}, "asks for another key. Set VLLM_API_KEY"),
        ({"refuses": lambda body: (500, "EngineCore\x1b died")}, r"failed \(500: EngineCore.* died\)"),
        ({"choices": lambda body: None}, "does not answer as vLLM does. Set decoding.vllm.url"),
        ({"choices": lambda body: []}, "gives 0 answers for 3"),
        ({"positions": 749}, "has 749 positions, .* up to 750. Start it with --max-model-len 750"),
    ],
)
def test_servers_that_cannot_decode(folder: Path, vllm: Vllm, change: dict[str, Any], said: str) -> None:
    for name, value in change.items():
        setattr(vllm, name, vllm.table + 1.0 if name == "table" else value)
    with pytest.raises(ConfigError, match=rf"^decoding\.vllm\.url='{vllm.url}': the vLLM server {said}"):
        service(folder, vllm).decoder().__enter__()


def test_a_servers_positions_hold_a_models_hot_words(folder: Path, vllm: Vllm) -> None:
    vllm.positions, found = 750, service(folder, vllm)
    listed = replace(found, models={"base": replace(found.models["base"], words=("陈凯", "LP"))})
    assert found.word_positions == 0 < listed.word_positions
    with pytest.raises(ConfigError, match=f"has 750 positions, .* up to {750 + listed.word_positions}"):
        listed.decoder().__enter__()


def test_what_is_no_front_end_or_lacks_an_adapter(
    folder: Path, vllm: Vllm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"model\.path='.*': is no front end .*Use model\.path=.*/front_end$"):
        service(folder, vllm, model=ModelConfig(str(folder), dtype="float32"))
    with pytest.raises(ConfigError, match=r"model\.path='tiny': is no front end .*merge target=qwen2"):
        service(folder, vllm, model=ModelConfig())
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"has no talks; it has meetings, calls\. Start it .*--lora-modules talks=FOLDER"
    ):
        service(folder, vllm, adapters={"talks": str(tmp_path)})
    spaced = tmp_path / "a b"
    spaced.mkdir()
    (spaced / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"export_adapter 'adapter=\"{spaced}\"' out=FOLDER"):
        service(folder, vllm, adapters={"talks": str(spaced)})
    (tmp_path / META).write_text(json.dumps({"base": "x", "config": {"model": {"path": "other"}}}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"model\.path=.*was trained on another base \(other\).*any_base=true"):
        service(folder, vllm, adapters={"calls": str(tmp_path)})
    vllm.adapters = ["base"]
    with pytest.raises(ConfigError, match="has an adapter named base"):
        service(folder, vllm)
    vllm.adapters = ["a'b\x1b[2J"]
    capsys.readouterr()
    assert "a'b\x1b[2J" in service(folder, vllm).models
    named = """'adapters={a'"'"'b\\x1b[2J: FOLDER}'"""
    asked = f"asked with the default prompt; {named} uses the one it was trained with"
    assert capsys.readouterr().out == f"a'b\\x1b[2J: adapter of the vLLM server, {asked}\n"
    with pytest.raises(RequestRefused, match=r"text_temperature=0\.001: vLLM draws at 0\.01"):
        vllm.adapters = []
        found = service(folder, vllm)
        found.requests(found.models["base"], 0.001)


def test_gone_and_back(folder: Path, vllm: Vllm, caplog: pytest.LogCaptureFixture) -> None:
    """While it is gone requests are told so at once; when it is back they are answered, with nothing started anew."""
    wav = io.BytesIO()
    soundfile.write(wav, np.full(8000, 0.1), 8000, format="WAV")
    found = service(folder, vllm)
    with BatchQueue(found.decoder(), 1) as queue:

        def asked(method: str, path: str, **given: Any) -> httpx.Response:
            app = make_app(found, queue, "")  # anew, as an answer about the decoder serves for some seconds

            async def ask() -> httpx.Response:
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
                    return await client.request(method, path, **given)

            return asyncio.run(ask())

        def transcription(model: str = "base") -> httpx.Response:
            files = {"file": ("a.wav", wav.getvalue())}
            return asked("POST", "/v1/audio/transcriptions", files=files, data={"model": model})

        assert transcription().status_code == 200
        vllm.gone = True
        for _ in range(4):
            done = transcription()
            error = done.json()["error"]
            assert (done.status_code, error["code"], done.headers["retry-after"]) == (503, "engine_unavailable", "5")
            assert error["message"].startswith("the vLLM server cannot be reached") and vllm.url not in error["message"]
        told = asked("GET", "/health")
        assert told.status_code == 503 and told.json()["trouble"].startswith("the vLLM server cannot be reached")
        assert caplog.text.count("Start it") == 1
        vllm.gone = False
        assert asked("GET", "/health").json()["status"] == "ok"
        assert transcription().status_code == 200
        assert "is back" in caplog.text
        vllm.adapters = []
        vllm.refuses = lambda body: (404, "no such model") if body["model"] == "calls" else None
        gone = transcription("calls").json()["error"]["message"]
        assert gone.startswith("the vLLM server has no model 'calls' (no such model)")
        assert asked("GET", "/health").status_code == 200, "others are answered"
        assert transcription().status_code == 200
        assert "prompt_embeds" in vllm.asked[-1] and caplog.text.count("is back") == 1, "without a look"
        vllm.refuses = lambda body: (400, "no") if body["max_tokens"] > 1 else None
        assert [transcription().status_code for _ in range(3)] == [500] * 3
        assert asked("GET", "/health").status_code == 503, "as after other batches that fail"


def test_a_server_that_hangs(folder: Path, vllm: Vllm) -> None:
    found = service(folder, vllm, timeout=0.05)
    vllm.held.clear()
    with pytest.raises(Unavailable, match=r"has not answered for 0\.05 s. .*decoding\.vllm\.timeout"):
        found.decoder().__enter__()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"held": Event()}, "has not answered for 1 s"),
        ({"refuses": lambda body: (400, "no") if body["max_tokens"] > 1 else None, "table": None}, "has another model"),
        ({"key": "secret"}, "asks for another key"),
    ],
)
def test_health_tells_what_requests_meet_and_when_it_is_over(
    folder: Path, vllm: Vllm, caplog: pytest.LogCaptureFixture, how: dict[str, Any], said: str
) -> None:
    """vLLM's own /health is fine all the time."""
    found = service(folder, vllm, timeout=1.0 if "held" in how else 60.0)
    before = {name: getattr(vllm, name) for name in how}
    with BatchQueue(found.decoder(), 1) as queue:
        vars(vllm).update(how | ({"table": vllm.table + 1.0} if "table" in how else {}))
        for key in "ab":
            queue.submit([failing := job(found, key=key)])
            error = failing.answers.exception(60)
        assert isinstance(error, Unavailable) and said in error.rule
        assert queue.decoder.trouble() == error.rule
        vllm.held.set()
        vars(vllm).update(before)
        assert queue.decoder.trouble() is None and "is back" in caplog.text
        queue.submit([fine := job(found)])
        assert fine.answers.result(60)


def test_prompts_beyond_the_servers_positions(folder: Path, vllm: Vllm) -> None:
    """Answers end where its positions do, and a request whose prompt leaves no room is no failure of the server."""
    vllm.positions, decoding = 263, DecodingConfig(engine="vllm", max_new_tokens=200, vllm=VllmConfig(url=vllm.url))
    found = service(folder, vllm, max_seconds=5.0, decoding=decoding)
    jobs = [job(found) for _ in range(5)]
    jobs[0].prompt *= 5
    for one in jobs[1:]:
        one.prompt *= 50
    with BatchQueue(found.decoder(), 1) as queue:
        queue.submit(jobs)
        assert jobs[0].answers.result(60)
        for one in jobs[1:]:
            with pytest.raises(
                RequestRefused, match=r"^prompt: it has \d+ positions .* server 263\. Give fewer words"
            ) as no:
                one.answers.result(60)
            assert (no.value.option, no.value.status) == ("prompt", 400)
        assert queue.failed_in_a_row == 0
    asked = vllm.asked[-1]
    assert asked["max_tokens"] == 263 - len(unpacked(asked["prompt_embeds"][0])) < 200
