"""Several ranks read a split together: each a part of it, and then they tell each other.

How ranks talk is not known here: the caller gives the one collective operation that is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kws_dist.data.clip_reader import Ints
from kws_dist.errors import DataError

_ERROR_BYTES = 8192


@dataclass(frozen=True)
class Share:
    """Which part of the reading is this rank's, and how the ranks put the parts together."""

    rank: int
    world: int
    all_gather: Callable[[Tensor], Tensor]
    """Takes a uint8 tensor that has the same shape on every rank, on the device of the store, and returns those of
    all ranks `(world, ...)`. Every rank calls it equally often."""

    def part(self, clips: Ints, rank: int) -> Ints:
        """Return what a rank reads: a contiguous part, the parts as long as each other or one shorter."""
        return clips[len(clips) * rank // self.world : len(clips) * (rank + 1) // self.world]

    def settle(self, read: Callable[[], Ints], clips: int, device: torch.device) -> Ints:
        """Let every rank `read` its part, and return which of all `clips` any rank found damaged.

        A `DataError` of one rank is raised on every rank, that of the lowest rank if there are several: none is left
        waiting for a rank that has given up.
        """
        damaged, error = np.zeros(clips, np.uint8), None
        try:
            damaged[read()] = 1
        except DataError as own:
            error = own
        own_text = str(error or "").encode()[:_ERROR_BYTES].ljust(_ERROR_BYTES)
        for text in self._gather(np.frombuffer(own_text, np.uint8), device):
            if sentence := text.tobytes().decode(errors="ignore").strip():
                raise DataError(sentence) from error
        return np.flatnonzero(self._gather(damaged, device).any(axis=0))

    def join(self, pcm: Tensor, clips: Ints, *, slice_bytes: int = 256 << 20) -> None:
        """Complete `pcm` `(N, clip_samples)`, of which each rank has filled the rows of its `part` of `clips`.

        Goes slice by slice, so that it needs `slice_bytes` of memory besides.
        """
        if self.world == 1:
            return
        parts = [torch.from_numpy(self.part(clips, rank)).to(pcm.device) for rank in range(self.world)]
        row_bytes = pcm.shape[1] * pcm.element_size()
        rows = max(slice_bytes // ((self.world + 1) * row_bytes), 1)
        for first in range(0, max(map(len, parts)), rows):
            slices = [part[first : first + rows] for part in parts]
            own = pcm.new_zeros(max(map(len, slices)), pcm.shape[1])
            own[: len(slices[self.rank])] = pcm.index_select(0, slices[self.rank])
            # As bytes, because not every collective knows 16-bit integers.
            for numbers, theirs in zip(slices, self.all_gather(own.view(torch.uint8)), strict=True):
                pcm.index_copy_(0, numbers, theirs.view(torch.int16)[: len(numbers)])

    def _gather(self, own: np.ndarray, device: torch.device) -> np.ndarray:
        return self.all_gather(torch.from_numpy(own.copy()).to(device)).cpu().numpy()


ALONE = Share(0, 1, lambda tensor: tensor[None])
"""One rank that reads everything."""
