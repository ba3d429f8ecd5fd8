"""What a model costs and how far it hears, measured on the model itself.

B = batch, bins = rows of the features, frames = their columns (samples, where the features are the waveform).
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from kws_dist.errors import UsageError
from kws_dist.models import bcresnet

_LENGTHS = (1, 2, 4, 8)
"""How many clips long the input is in which the end of a receptive field is looked for, one length after the other."""
_INPUTS = 4
"""Any one input leaves some paths dead (a ReLU below 0, a maximum that lies elsewhere); of several, each is alive."""
_LEAST_RUNS, _MOST_RUNS, _TIMED_S = 10, 300, 0.5


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable weights."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_macs(model: nn.Module, features: Tensor) -> int:
    """Return the multiplications with accumulation that `features` `(B, 1, bins, frames)` cost in evaluation.

    Counted are convolutions (with the zeros of their padding), matrix products (so linear and recurrent layers and
    both products of attention); not counted are biases, norms, activations, pooling, and products of single elements.
    Where a module computes a convolution as a product with a matrix that is mostly zeros, as BC-ResNet here does, it is
    the convolution's own multiplications that count.
    """
    counter, inside, by_formula, handles = FlopCounterMode(display=False), [0], [0], []

    def before(_module: nn.Module, _inputs: object) -> None:
        inside[0] -= counter.get_total_flops()

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        inside[0] += counter.get_total_flops()
        by_formula[0] += _macs_of(module, inputs[0], output)

    for module in model.modules():
        if isinstance(module, _COUNTED_BY_FORMULA):
            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter knows no fused layer, nor fused attention on a CPU
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model.eval()(features)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for handle in handles:
            handle.remove()
    return (counter.get_total_flops() - inside[0]) // 2 + by_formula[0]


_COUNTED_BY_FORMULA = (nn.RNNBase, bcresnet.FrequencyConv, bcresnet.TimeConv, bcresnet.TailConv)


def _macs_of(module: nn.Module, given: Tensor, output: object) -> int:
    if isinstance(module, nn.RNNBase):  # whose kernels the counter does not all know; every matrix serves every step
        weights = sum(weight.numel() for name, weight in module.named_parameters() if name.startswith("weight"))
        return weights * given.shape[:-1].numel()
    assert isinstance(output, Tensor)
    assert isinstance(module.weight, Tensor)
    return output.numel() * module.weight[0].numel()  # depthwise: one product for each tap of the channel


def receptive_frames(build: Callable[[int], nn.Module], *, bins: int, frames: int) -> int | None:
    """Return how many frames one step of the sequence before the pooling depends on; None if it is all of them.

    Measured: from the first to the last frame for which the gradient of the central step of `encode` is not 0, in
    double precision. Unless they lie within half of the clip, they are looked for in longer ones: of a dilated
    convolution some taps may lie outside. `build(frames)` makes a model for clips of so many frames; one that takes no
    longer clip hears all of it, if it hears its ends.
    """
    heard: int | None = None
    for length in _LENGTHS:
        try:
            heard = _heard(build, bins, length * frames)
        except UsageError:
            if length == 1:
                raise
            break
        if heard is not None and 2 * heard <= length * frames:
            break
    return heard


def _heard(build: Callable[[int], nn.Module], bins: int, frames: int) -> int | None:
    """Return how many frames lie from the first to the last that the central step depends on; None at an end."""
    heard = torch.zeros(frames, dtype=torch.bool)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(frames).double().eval()
        for _ in range(_INPUTS):
            features = torch.randn(1, 1, bins, frames, dtype=torch.float64, requires_grad=True)
            encoded = model.encode(features)  # pyright: ignore[reportCallIssue]
            central = encoded[..., encoded.shape[-1] // 2]
            (gradient,) = torch.autograd.grad((central * torch.randn_like(central)).sum(), features)
            heard |= (gradient != 0).any(dim=2).flatten()
    first, last = heard.nonzero().squeeze(1)[[0, -1]].tolist()
    return None if first == 0 or last == frames - 1 else last - first + 1


def activation_bytes(model: nn.Module, features: Tensor) -> float:
    """Return what training in float32 keeps of each clip from the forward to the backward pass, in bytes.

    `features` `(B, 1, bins, frames)`, B even. It is the difference between all clips and half of them, divided by their
    number: weights, and what is made of them alone, are not counted, and memory that several layers keep counts once.
    """
    half = len(features) // 2
    return (_saved_bytes(model, features) - _saved_bytes(model, features[:half].clone())) / (len(features) - half)


def _saved_bytes(model: nn.Module, features: Tensor) -> int:
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model.train()(features)
        loss = cross_entropy(logits, torch.zeros(len(features), dtype=torch.int64, device=features.device))
    total = sum(saved.values())
    del loss  # until here it kept all of them alive, so that no two had the same address
    return total


@torch.inference_mode()
def latencies_ms(calls: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Return the median time of each call in ms, after a few that warm up; they take turns, so the machine is alike."""
    turns: list[list[float]] = []
    ends_s = time.perf_counter() + _TIMED_S * len(calls)
    for call in (*calls, *calls):
        call()
    while len(turns) < _LEAST_RUNS or (time.perf_counter() < ends_s and len(turns) < _MOST_RUNS):
        turns.append([_milliseconds(call, device) for call in calls])
    return [statistics.median(times) for times in zip(*turns, strict=True)]


def _milliseconds(call: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    started_s = time.perf_counter()
    call()
    _wait_for(device)
    return 1000 * (time.perf_counter() - started_s)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
