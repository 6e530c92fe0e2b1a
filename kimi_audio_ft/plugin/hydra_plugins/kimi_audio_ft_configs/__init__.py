"""Our configs, studies and dataclasses, as Hydra finds them."""
