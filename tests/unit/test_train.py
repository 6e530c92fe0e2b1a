"""What a trial is called."""

from __future__ import annotations

import pytest

from kimi_audio_ft.train import trial_name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["lora.r=8", "logger=none", "+optim.lr=1e-3", "seed=2"], "lora.r=8,optim.lr=1e-3,seed=2"),
        (["+experiments=prompts", "prompt=english"], "prompt=english"),
        (["prompt.hotwords=my/terms.txt", "model=tiny"], "prompt.hotwords=my/terms.txt"),
        (["data.prompt='转写：'", "data.batch_size=4", "trainer=tiny"], "data.prompt='转写：'"),
        (["data.train_subset=100", "data.train_subset_seed=2"], "data.train_subset=100,data.train_subset_seed=2"),
        (["augment=speed", "data.augment.time_masks=1"], "augment=speed,data.augment.time_masks=1"),
        (["data.eval_manifest=x.jsonl", "trainer.max_steps=4"], "defaults"),
    ],
)
def test_a_trial_is_named_by_what_makes_it_itself(overrides: list[str], name: str) -> None:
    assert trial_name(overrides) == name
