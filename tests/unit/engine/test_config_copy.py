"""Quick copies of configs: node for node what ``copy.deepcopy`` makes, and nothing shared."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.base import Node

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.sweep.compose import copied


@dataclass
class _Part:
    number: int | str = 3  # a union's node holds another node
    place: Path = Path("a/b")
    names: list[str] = field(default_factory=lambda: ["x", "${above}"])
    anything: Any = None
    needed: str = "???"


@dataclass
class _Whole:
    above: str = "over"
    part: _Part = field(default_factory=_Part)
    table: dict[str, int] = field(default_factory=lambda: {"a": 1})
    none: _Part | None = None
    link: _Part = field(default_factory=_Part)


def _wholes() -> list[DictConfig]:
    whole = OmegaConf.structured(_Whole)
    OmegaConf.set_readonly(whole.part, True)
    whole.link = "${part}"
    loose = OmegaConf.create({"a": {"b": [1, {"c": 2.5}, [None, b"raw"]]}, "d": "${a.b}", "e": "???"})
    OmegaConf.set_struct(loose, True)
    return [whole, loose, OmegaConf.structured(TrainConfig)]


def _nodes(node: Node, where: str = "") -> Iterator[tuple[str, Node]]:
    yield where, node
    content = node.__dict__.get("_content")
    if isinstance(content, dict | list):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for key, inner in pairs:
            yield from _nodes(inner, f"{where}.{key}")
    elif isinstance(content, Node):
        yield from _nodes(content, f"{where}()")


def _facts(config: DictConfig) -> list[Any]:
    """All that a node is, but its neighbours and what it has looked up."""
    kept = []
    for where, node in _nodes(config):
        fields = {k: v for k, v in vars(node).items() if k not in ("_parent", "_content", "_metadata", "_flags_cache")}
        content = vars(node).get("_content")
        plain = None if isinstance(content, dict | list | Node) else content
        kept.append((where, type(node), fields, plain, vars(node._metadata)))
    return kept


@pytest.mark.parametrize("config", _wholes(), ids=["typed", "loose", "train"])
def test_a_copy_is_node_for_node_what_deepcopy_makes(config: DictConfig) -> None:
    before = _facts(config)
    assert _facts(copied(config)) == _facts(copy.deepcopy(config)) == before


@pytest.mark.parametrize("config", _wholes(), ids=["typed", "loose", "train"])
def test_a_copy_shares_no_node_and_each_has_its_own_parent(config: DictConfig) -> None:
    twin = copied(config)
    ours, theirs = dict(_nodes(config)), dict(_nodes(twin))
    assert not {id(node) for node in ours.values()} & {id(node) for node in theirs.values()}
    metadata = [{id(node._metadata) for node in nodes.values()} for nodes in (ours, theirs)]
    assert not metadata[0] & metadata[1]
    for where, node in theirs.items():
        parent = node._get_parent()
        assert parent is None if not where else any(parent is other for other in theirs.values())


def test_a_change_of_the_copy_leaves_the_original() -> None:
    original = _wholes()[1]
    text = OmegaConf.to_yaml(original)
    twin = copied(original)
    with open_dict(twin):
        twin.a.b[1].c = 7
        twin.a.b.append("more")
        twin.new = 1
    OmegaConf.set_readonly(twin.a, True)
    assert OmegaConf.to_yaml(original) == text
    assert not OmegaConf.is_readonly(original.a)
    assert twin.d[1].c == 7  # its interpolations are within itself
