"""vLLM's side of ``vllm_process.py``: a program for the Python of an environment that has vLLM and nothing of ours.

It reads orders from its standard input and writes answers to what was its standard output, a JSON object a line. All
that libraries print goes to standard error.

    {"start": {argument of vLLM's engine: value}}                first; answered by {"ready": {package: version}}
    {"prompts": FILE, "rows": [row], "adapter": adapter}         answered by a line for each row, in any order
        FILE: safetensors with the embeddings ``[positions, hidden]`` of each prompt
        row: {"row": number, "prompt": name in FILE, "sampling": {argument of SamplingParams: value}}
        adapter: {"id": number, "path": folder} or null
        answer: {"row": number, "tokens": [id], "log_probability": sum over the tokens, or null}
    {"error": text}                                              the last line, when something goes wrong

It ends at the end of its input: when it is no longer needed, or when the process that needs it is gone.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from importlib.metadata import version
from typing import IO, Any

# Seconds to end by itself once the input has ended; a computation may not come to an end so soon.
_GRACE = 5.0
Orders = queue.Queue[dict[str, Any] | None]


def main() -> None:
    """Obey orders until they end."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    orders: Orders = queue.Queue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    try:
        first = orders.get()
        if first is not None:
            engine = _engine(first["start"])
            _send(answers, {"ready": _versions()})
            _obey(engine, orders, answers)
    except Exception as error:
        traceback.print_exc()
        _send(answers, {"error": f"{type(error).__name__}: {error}"})
    sys.stderr.flush()
    os._exit(0)  # without the seconds that libraries take to tidy up


def _listen(orders: Orders) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    orders.put(None)
    time.sleep(_GRACE)
    os.killpg(os.getpgid(0), signal.SIGKILL)  # processes of vLLM too; the group is ours


def _send(answers: IO[str], message: dict[str, Any]) -> None:
    answers.write(f"{json.dumps(message)}\n")
    answers.flush()


def _versions() -> dict[str, str]:
    import torch
    import vllm

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "vllm": vllm.__version__,
        "torch": version("torch"),
        "transformers": version("transformers"),
        "device": device,
    }


def _engine(arguments: dict[str, Any]) -> Any:
    import torch
    from vllm import EngineArgs, LLMEngine

    if not torch.cuda.is_available():
        arguments.setdefault("enforce_eager", True)  # what it would compile needs a C++ compiler, and minutes
        # Without it prompts are computed whole; 0.32 cannot draw from seeds on a CPU after a part of one.
        arguments.setdefault("enable_chunked_prefill", False)
    return LLMEngine.from_engine_args(EngineArgs(**arguments))


def _obey(engine: Any, orders: Orders, answers: IO[str]) -> None:
    """Decode the rows of all orders that are there together, until there are no more."""
    while True:
        while orders.empty() and engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    _send(answers, _answer(output))
        order = orders.get()
        if order is None:
            return
        _add(engine, order)


def _add(engine: Any, order: dict[str, Any]) -> None:
    from safetensors.torch import load_file
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    prompts, adapter = load_file(order["prompts"]), order["adapter"]
    lora = LoRARequest(f"adapter{adapter['id']}", adapter["id"], adapter["path"]) if adapter else None
    for row in order["rows"]:
        sampling = SamplingParams(detokenize=False, **row["sampling"])
        engine.add_request(str(row["row"]), {"prompt_embeds": prompts[row["prompt"]]}, sampling, lora_request=lora)


def _answer(output: Any) -> dict[str, Any]:
    [found] = output.outputs
    tokens, chances = list(found.token_ids), found.logprobs
    total = None
    if chances:
        total = sum(of_step[token].logprob for of_step, token in zip(chances, tokens, strict=True))
    return {"row": int(output.request_id), "tokens": tokens, "log_probability": total}


if __name__ == "__main__":
    main()
