"""Matrix products that no setting of the process makes coarser.

People let float32 products round their factors to TF32 (on a GPU) or bfloat16 (on some CPUs), because models hardly
suffer: `torch.set_float32_matmul_precision`, `torch.backends.cuda.matmul.allow_tf32`, `torch.backends.fp32_precision`.
Features would: 10 bits of mantissa are 5e-4 in a logarithm. These settings hold for the process, so switching them off
for a moment would change the products of whatever trains in another thread; float64 they do not reach.
"""

import torch
from torch import Tensor


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of two float32 tensors, as `torch.matmul`; in float64 where float32 might be rounded."""
    if may_round(a.device.type):
        return torch.matmul(a.double(), b.double()).float()
    return torch.matmul(a, b)


def may_round(device_type: str) -> bool:
    """Return whether the process lets float32 products on this kind of device round their factors."""
    backend = torch.backends.cuda if device_type == "cuda" else torch.backends.mkldnn
    precision = getattr(getattr(backend, "matmul", None), "fp32_precision", None)  # from torch 2.9 on
    if precision is None:
        return torch.get_float32_matmul_precision() != "highest"
    return precision not in ("none", "ieee")
