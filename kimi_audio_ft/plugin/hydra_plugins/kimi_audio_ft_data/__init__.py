"""Files of a corpus as choices of the group ``data``, as Hydra finds them."""
