"""Target modules of an adapter, by full module path.

PEFT matches bare names as suffixes, which is how the published run came to adapt Whisper's q, k and v projections
although its documentation calls Whisper frozen. Here targets are regular expressions over the whole path, and one that
matches nothing is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.store.signature import digest_of

if TYPE_CHECKING:
    from torch import nn

_ATTENTION = r"self_attn\.(q|k|v|o)_proj"
_MLP = r"mlp\.(gate|up|down)_proj"
_ALL_SEVEN = rf"({_ATTENTION}|{_MLP})"
_DECODER_AND_ADAPTOR = rf"model\.(layers\.\d+\.{_ALL_SEVEN}|vq_adaptor\.layers\.[03])"

PRESETS = {
    # All seven linears of every main layer: all that text output depends on.
    "decoder": rf"model\.layers\.\d+\.{_ALL_SEVEN}",
    "attention": rf"model\.layers\.\d+\.{_ATTENTION}",
    "mlp": rf"model\.layers\.\d+\.{_MLP}",
    # Also the two linears that bring Whisper's features to the decoder's width.
    "decoder_and_adaptor": _DECODER_AND_ADAPTOR,
    # Also all four of every attention in the Whisper encoder, whose features then change while training.
    "decoder_adaptor_whisper": rf"({_DECODER_AND_ADAPTOR}"
    r"|whisper_model\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj)",
    # Also the audio branch, which gets no gradient from text answers.
    "decoder_and_branch": rf"model\.(layers|mimo_layers)\.\d+\.{_ALL_SEVEN}",
    # The published run's suffix matches: decoder, branch, and q, k, v of the Whisper encoder.
    "report": rf"(model\.(layers|mimo_layers)\.\d+\.{_ALL_SEVEN}"
    r"|whisper_model\.encoder\.layers\.\d+\.self_attn\.(q|k|v)_proj)",
}


def target_pattern(targets: str | Iterable[str]) -> str:
    """One regular expression over full module paths from a preset, an expression, or a list of them."""
    parts = [targets] if isinstance(targets, str) else list(targets)
    patterns = [PRESETS.get(part, part) for part in parts]
    for part, pattern in zip(parts, patterns, strict=True):
        try:
            re.compile(pattern)
        except re.error as error:
            rule = f"is neither a preset ({', '.join(PRESETS)}) nor a regular expression ({error})"
            raise ConfigError("lora.target_modules", part, rule) from None
    return patterns[0] if len(patterns) == 1 else "|".join(f"({pattern})" for pattern in patterns)


def linears_of(model: nn.Module) -> list[str]:
    """Paths of all linears of a model."""
    from torch import nn

    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def matched(linears: Sequence[str], targets: str | Iterable[str]) -> list[str]:
    """The linears that match the targets; ConfigError if a target matches none of this model."""
    found: list[str] = []
    for part in [targets] if isinstance(targets, str) else list(targets):
        pattern = re.compile(target_pattern(part))
        matches = [name for name in linears if pattern.fullmatch(name)]
        if not matches:
            example = f"e.g. {linears[0]}" if linears else "none"
            rule = f"matches none of the model's {len(linears)} linears ({example})"
            remedy = f"Use a preset ({', '.join(PRESETS)}) or a regular expression over whole module paths"
            raise ConfigError("lora.target_modules", part, rule, remedy)
        found += matches
    return sorted(set(found))


@lru_cache(maxsize=256)
def reached(modules: tuple[str, ...], pattern: str) -> str:
    """Digest of the modules that PEFT matches with a pattern: linears, and embeddings and convolutions too.

    PEFT goes through the modules in the model's order, so that nothing else about the pattern changes an adapter.
    """
    expression = re.compile(pattern)
    return digest_of([name for name in modules if expression.fullmatch(name)])


def require_decoder_only(modules: Iterable[str], targets: object) -> None:
    """Raise a ConfigError unless ``decoding.engine=vllm`` can apply an adapter of these targets."""
    odd = next((name for name in modules if not name.startswith("model.layers.") and not needs_branch([name])), None)
    if odd is not None:
        rule = f"changes {odd}, and decoding.engine=vllm can change the decoder only"
        raise ConfigError("lora.target_modules", targets, rule, "Use decoding.engine=native, or lora=decoder")


def needs_branch(modules: Iterable[str]) -> bool:
    """Whether any target is in the audio branch."""
    return any(name.startswith(("model.mimo_layers.", "mimo_output")) for name in modules)


def needs_features(modules: Iterable[str]) -> bool:
    """Whether any target is in the adaptor of the features, which is idle without them."""
    return any(name.startswith("model.vq_adaptor.") for name in modules)


def needs_whisper(modules: Iterable[str]) -> bool:
    """Whether any target is in the Whisper encoder, so that features change during training."""
    return any(name.startswith("whisper_model.") for name in modules)
