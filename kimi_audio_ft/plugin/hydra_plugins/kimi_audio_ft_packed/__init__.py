"""The packed launcher, as Hydra finds it."""
