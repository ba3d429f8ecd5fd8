"""Batch norm over the clips of all ranks: torch's on a GPU, and the same arithmetic on a CPU, where torch has none."""

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


def synced(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace the batch norms of `model` by ones that see all ranks; their parameters and names stay."""
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if device.type == "cpu":
        for module in converted.modules():
            if isinstance(module, nn.SyncBatchNorm):
                module.__class__ = GlooBatchNorm  # pyright: ignore[reportAttributeAccessIssue]
    return converted


class GlooBatchNorm(_BatchNorm):
    """`SyncBatchNorm` by all-reduces that autograd knows: sums and numbers of values first, then squared distances."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `(B, C, ...)`."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(input)
        values = input.float().transpose(0, 1).flatten(1)
        here = torch.full((1,), values.shape[1], dtype=torch.float32)
        sums, count = all_reduce(torch.cat((values.sum(1), here))).split([len(values), 1])
        mean = sums / count
        squares = all_reduce((values - mean[:, None]).square().sum(1))
        self._take_in(mean.detach(), squares.detach(), count.detach())
        shape = (1, -1, *(1,) * (input.dim() - 2))
        normal = (input.float() - mean.view(shape)) * (squares / count + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)

    def _take_in(self, mean: Tensor, squares: Tensor, count: Tensor) -> None:
        """Update the running statistics; the variance is the unbiased one, as everywhere in torch."""
        assert self.momentum is not None, "no model here asks for a cumulative average"
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(squares / (count - 1), self.momentum)
