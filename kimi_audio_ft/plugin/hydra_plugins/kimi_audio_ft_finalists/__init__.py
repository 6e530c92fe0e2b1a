"""The sweeper with finalists, as Hydra finds it."""
