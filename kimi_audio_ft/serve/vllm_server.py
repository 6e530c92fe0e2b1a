"""A client of a running vLLM server (``vllm serve --enable-prompt-embeds``), by its OpenAI interface."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import torch
from torch import Tensor

from kimi_audio_ft.config.train import VllmConfig
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.serve.batch_queue import Unavailable
from kimi_audio_ft.text import printable

OPTION = "decoding.vllm.url"
KEY_VARIABLE = "VLLM_API_KEY"
"""Environment variable, vLLM's own, with the key of its server."""
PROMPTLY = 5.0
"""Seconds in which it answers what costs it nothing."""
_CONNECT = 5.0  # seconds to reach it
_START = "Start it (docs/recogniser.md, A server on vLLM), or wait until it has loaded its model; its log says more"
# How it writes tokens as ids: it has no tokenizer that knows them.
_ID = "token_id:"
# Statuses of a request that is refused for what it asks; others are of the server itself.
_REJECTED = (400, 413, 422)
_LONGEST = 300  # characters of what it says, in an error
# What it could have other defaults for, and how it is to answer.
_FIXED = {
    **{"top_k": 0, "top_p": 1.0, "min_p": 0.0},
    **{"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
    **{"logprobs": 0, "return_tokens_as_token_ids": True},
}
_Found = TypeVar("_Found")


class Rejected(UserError):
    """vLLM refuses a request for what it asks."""


class NoModel(Unavailable):
    """vLLM has no model of the name that a request gives; others may be fine."""


@dataclass(frozen=True)
class Listed:
    """Names of the models of a vLLM server: the base's, and those of its adapters. positions: longest sequence."""

    base: str
    adapters: Sequence[str]
    positions: int


@dataclass(frozen=True)
class Completion:
    """Tokens of an answer, and natural logarithms of their probabilities at temperature 1.

    likeliest: the same of tokens in the place of the first, as many as were asked for.
    """

    tokens: Sequence[int]
    log_probabilities: Sequence[float]
    likeliest: Mapping[int, float]


class VllmServer:
    """The server at ``decoding.vllm.url``, which may be asked from several threads. No proxy is used.

    All its methods raise Unavailable where it cannot be reached, fails, or is not started as it must be.
    """

    def __init__(self, settings: VllmConfig) -> None:
        assert settings.url is not None, "DecodingConfig.require_engine_fits requires it"
        self.url, self._seconds, key = settings.url, settings.timeout, os.environ.get(KEY_VARIABLE)
        # A connection for each request: one that is kept would break when the server is started anew.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._client = httpx.Client(base_url=self.url, headers=headers, limits=limits, trust_env=False)
        except (httpx.InvalidURL, UnicodeError) as error:  # the latter of the key
            raise ConfigError(OPTION, self.url, f"cannot be asked, with the key in {KEY_VARIABLE} ({error})") from None

    def require_health(self) -> None:
        """Return if it is well."""
        self._asked("GET", "/health", PROMPTLY)

    def models(self) -> Listed:
        return self._read(self._asked("GET", "/v1/models", PROMPTLY), _listed)

    def complete(
        self,
        model: str,
        prompts: Sequence[Sequence[int]] | Sequence[Tensor],
        n: int = 1,
        seconds: float = math.inf,
        **sampling: Any,
    ) -> list[Completion]:
        """``n`` answers to each prompt, those to the first prompt first.

        Args:
            prompts: token ids, or embeddings ``[positions, hidden]``. seconds: that it may take, at most
                ``decoding.vllm.timeout``. sampling: arguments of vLLM's SamplingParams.

        Raises:
            Rejected: it refuses the request for what it asks.
            NoModel: it has no such model.
        """
        embedded = [_packed(prompt) for prompt in prompts if isinstance(prompt, Tensor)]
        given = {"prompt_embeds": embedded} if embedded else {"prompt": [list(prompt) for prompt in prompts]}
        body = {"model": model, "n": n, **given, **_FIXED, **sampling}
        found = self._read(self._asked("POST", "/v1/completions", min(seconds, self._seconds), body), _completions)
        if len(found) != n * len(prompts):
            raise self._unavailable(f"gives {len(found)} answers for {n * len(prompts)}", _START)
        return found

    def _asked(self, method: str, path: str, seconds: float, body: dict[str, Any] | None = None) -> httpx.Response:
        timeout = httpx.Timeout(seconds, connect=_CONNECT)
        try:
            response = self._client.request(method, path, json=body, timeout=timeout)
        except httpx.ConnectTimeout:
            raise self._unavailable(f"cannot be reached (no connection in {_CONNECT:g} s)", _START) from None
        except httpx.TimeoutException:
            remedy = "It hangs or is overloaded; its log says more, and decoding.vllm.timeout gives it longer"
            raise self._unavailable(f"has not answered for {seconds:g} s", remedy) from None
        except httpx.HTTPError as error:
            raise self._unavailable(f"cannot be reached ({error or type(error).__name__})", _START) from None
        if not response.is_success:
            raise self._refusal(response, body)
        return response

    def _refusal(self, response: httpx.Response, body: dict[str, Any] | None) -> UserError:
        said, status = _said(response), response.status_code
        if "enable-prompt-embeds" in said or "enable_prompt_embeds" in said:
            return self._unavailable("takes no prompt embeddings", "Start it with --enable-prompt-embeds")
        if status in (401, 403):
            return self._unavailable("asks for another key", f"Set {KEY_VARIABLE} to the one that it was started with")
        if status == 404 and body is not None:
            remedy = f"Start it with --enable-lora --lora-modules {body['model']}=FOLDER, or start this server again"
            return self._unavailable(f"has no model {body['model']!r} ({said})", remedy, NoModel)
        if status in _REJECTED and body is not None:
            return Rejected(f"vLLM refuses what it is asked ({status}: {said})")
        return self._unavailable(f"failed ({status}: {said})", _START)

    def _read(self, response: httpx.Response, read: Callable[[Any], _Found]) -> _Found:
        try:
            return read(response.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise self._unavailable("does not answer as vLLM does", f"Set {OPTION} to the address of one") from None

    def _unavailable(self, what: str, remedy: str, kind: type[Unavailable] = Unavailable) -> Unavailable:
        return kind(OPTION, self.url, f"the vLLM server {what}", remedy)


def _packed(rows: Tensor) -> str:
    """Embeddings as vLLM takes them: a file of ``torch.save`` in base64."""
    file = io.BytesIO()
    torch.save(rows.clone(), file)  # a view would bring all that it is a view of
    return base64.b64encode(file.getvalue()).decode()


def _said(response: httpx.Response) -> str:
    """What an error says, in one line that may be printed."""
    try:
        found = response.json()
        found = found.get("error", found)  # an object of its own, or the answer itself in earlier versions
        text = str(found.get("message") or found)
    except (ValueError, AttributeError):
        text = response.text
    return printable(" ".join(text.split()))[:_LONGEST]


def _listed(facts: Any) -> Listed:
    cards = facts["data"]
    [base, *_] = [card for card in cards if not card.get("parent")]
    adapters = [str(card["id"]) for card in cards if card.get("parent")]
    return Listed(str(base["id"]), adapters, int(base["max_model_len"]))


def _completions(facts: Any) -> list[Completion]:
    return [_completion(choice["logprobs"]) for choice in sorted(facts["choices"], key=lambda choice: choice["index"])]


def _completion(facts: Any) -> Completion:
    tokens, first = list(map(_id, facts["tokens"])), facts["top_logprobs"][0]
    likeliest = {_id(token): float(chance) for token, chance in first.items()}
    return Completion(tokens, list(map(float, facts["token_logprobs"])), likeliest)


def _id(token: str) -> int:
    return int(token.removeprefix(_ID))
