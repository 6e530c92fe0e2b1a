"""The halving sweeper, as Hydra finds it."""
