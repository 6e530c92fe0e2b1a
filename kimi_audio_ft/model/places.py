"""Places of audio codes and answers in a batch, computed on the CPU so that the GPU is never synchronised for them.

Places are indices among the B * S positions of a batch, row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def places_of(mask_BS: Tensor) -> Tensor:
    """Places ``[N]`` where a mask is true."""
    return mask_BS.flatten().nonzero().squeeze(1)


def repeated_places(places_N: Tensor, size: int, copies: int) -> Tensor:
    """The same places of every copy, where ``copies`` batches of ``size`` positions are one."""
    offsets = size * torch.arange(copies, device=places_N.device)
    return (offsets.unsqueeze(1) + places_N).flatten()


def audio_run_lengths(is_audio_BS: Tensor) -> list[int]:
    """Lengths of the runs of true, row by row. Runs never touch, because media ids separate audios."""
    padded = pad(is_audio_BS.to(torch.int8), (1, 1))
    edges = padded.diff(dim=-1)
    starts, ends = (edges == 1).nonzero(), (edges == -1).nonzero()
    return (ends[:, 1] - starts[:, 1]).tolist()
