"""What summing gradients costs beside computing them, on more GPUs than are at hand: a model, not a measurement.

One all-reduce of n bytes takes a latency for each hop and the time of its bytes (the alpha-beta model: R. Thakur, R.
Rabenseifner, W. Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 19(1), 2005). NCCL
chooses between a ring and a tree, and between two protocols, by such a model; the latencies and shares are its own
(NVIDIA/nccl, src/graph/tuning.cc), the bandwidths are data sheets' (`Cluster`).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kws_dist import model_figures, models

GPUS = (8, 64, 512)
CLIPS_PER_GPU = 256
BUCKET_BYTES = 25 * 2**20
"""Of `--train.bucket_mb` as it is by default: larger than the gradient of any model here."""
WORDS = 35
_GOAL = 0.95
_BACKWARD_SHARE = 2 / 3  # of a step's arithmetic: two products for each one of the forward pass

# An NVIDIA H200: https://www.nvidia.com/en-us/data-center/h200 (989 TFLOP/s in bf16 without sparsity, 4.8 TB/s).
_BF16_FLOPS_PER_S, _MEMORY_BYTES_PER_S = 989e12, 4.8e12
_FRONT_END_BYTES = 2.5e6  # moved for one clip from samples to augmented features (docs/benchmarks.md)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Machines of GPUs; both bandwidths are those of one direction."""

    gpus_per_machine: int = 8
    nvlink_bytes_per_s: float = 450e9
    """Of a GPU: H100 and H200 have 18 links of 50 GB/s in both directions together (NVIDIA's H100 white paper)."""
    network_bytes_per_s: float = 50e9
    """For each GPU: InfiniBand NDR is 400 Gb/s, and a DGX H100 has one such adapter per GPU (its user guide)."""

    def bytes_per_s(self, gpus: int) -> float:
        """Return what goes through a ring of so many GPUs: through the links of each, and all adapters of a machine."""
        if gpus <= self.gpus_per_machine:
            return self.nvlink_bytes_per_s
        return min(self.nvlink_bytes_per_s, self.gpus_per_machine * self.network_bytes_per_s)


@dataclass(frozen=True, kw_only=True)
class _Way:
    """One of NCCL's ways to sum, with its latencies in microseconds: at the start, of a link, of the network."""

    ring: bool
    start_us: float
    link_us: float
    network_us: float
    bandwidth_share: float
    """A protocol sends flags with the data, by which the receiver knows that these are there."""


_WAYS = (
    _Way(ring=True, start_us=6.6, link_us=0.6, network_us=2.7, bandwidth_share=1 / 4),  # LL, for little
    _Way(ring=True, start_us=14.0, link_us=1.9, network_us=4.0, bandwidth_share=0.92),  # LL128, for more
    _Way(ring=False, start_us=6.8, link_us=0.6, network_us=5.0, bandwidth_share=0.9 / 3.8),
    _Way(ring=False, start_us=14.0, link_us=1.25, network_us=8.5, bandwidth_share=0.9 * 0.915),
)


def all_reduce_s(n_bytes: float, gpus: int, cluster: Cluster | None = None) -> float:
    """Return how long summing `n_bytes` over so many GPUs takes, the fastest way; `gpus` above 8 fill machines."""
    cluster = cluster or Cluster()
    machines = max(1, gpus // cluster.gpus_per_machine)
    return 0.0 if gpus == 1 else min(_all_reduce_s(n_bytes, gpus, machines, cluster, way) for way in _WAYS)


def _all_reduce_s(n_bytes: float, gpus: int, machines: int, cluster: Cluster, way: _Way) -> float:
    if way.ring:  # each part goes round twice: once to be summed, once to be handed out
        hops, over_network, times_sent = 2 * (gpus - 1), 2 * (machines - 1), 2 * (gpus - 1) / gpus
    else:  # up a tree of machines, in each of which the GPUs are a chain, and down again
        over_network, times_sent = 2 * math.ceil(math.log2(machines)), 2.0
        hops = 2 * (gpus // machines - 1) + over_network
    latency_us = way.start_us + (hops - over_network) * way.link_us + over_network * way.network_us
    return 1e-6 * latency_us + times_sent * n_bytes / (way.bandwidth_share * cluster.bytes_per_s(gpus))


def exposed_s(
    gradient_bytes: float,
    gpus: int,
    *,
    backward_s: float,
    bucket_bytes: float = BUCKET_BYTES,
    cluster: Cluster | None = None,
) -> float:
    """Return how much longer a step takes because gradients are summed.

    DDP sums them in buckets, each when its gradients are there. With k equal buckets, ready one after the other, each
    summed in t: `max(t, k t - backward (k - 1) / k)`. The last one is never hidden: nothing is left to be computed.
    """
    buckets = max(1, math.ceil(gradient_bytes / bucket_bytes))
    one_s = all_reduce_s(gradient_bytes / buckets, gpus, cluster)
    return max(one_s, buckets * one_s - backward_s * (buckets - 1) / buckets)


def efficiency(gradient_bytes: float, gpus: int, *, step_s: float, cluster: Cluster | None = None) -> float:
    """Return the share of the time in which a GPU computes; `step_s`: a step on one GPU alone, measured or estimated.

    With accumulation a step is all its micro-batches: the gradients are summed after the last.
    """
    backward_s = _BACKWARD_SHARE * step_s
    return step_s / (step_s + exposed_s(gradient_bytes, gpus, backward_s=backward_s, cluster=cluster))


def least_step_s(gradient_bytes: float, gpus: int, *, goal: float = _GOAL, cluster: Cluster | None = None) -> float:
    """Return how long a step has to be for the efficiency `goal`, if nothing of the sum is hidden."""
    return goal / (1 - goal) * all_reduce_s(gradient_bytes, gpus, cluster)


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What a model costs to train, for one clip."""

    model: str
    parameters: int
    macs: int
    activation_bytes: float
    """Kept in float32 from the forward to the backward pass."""

    @property
    def gradient_bytes(self) -> int:
        """In float32; in bf16 (`--train.compress_gradients`) half of it is sent."""
        return 4 * self.parameters

    @property
    def clips_per_s(self) -> float:
        """The most that an H200 could train in bf16, by its arithmetic and its memory.

        Forward and backward are 6 operations for each multiplication of a clip; each kept activation, in 2 bytes, is
        written and read once, and so is its gradient. Real training is slower, and so its efficiency higher.
        """
        moved_bytes = 2 * self.activation_bytes + _FRONT_END_BYTES
        return min(_BF16_FLOPS_PER_S / (6 * self.macs), _MEMORY_BYTES_PER_S / moved_bytes)


_MODELS = {
    "BC-ResNet-1": ("bcresnet", {"tau": 1}, (40, 98)),
    "BC-ResNet-8": ("bcresnet", {"tau": 8}, (40, 98)),
    "GRU": ("gru", {}, (40, 98)),
    "MatchboxNet-3x1x64": ("matchboxnet", {}, (64, 98)),
    "KWT-1": ("kwt", {"size": 1}, (40, 98)),
    "KWT-2": ("kwt", {"size": 2}, (40, 98)),
    "KWT-3": ("kwt", {"size": 3}, (40, 98)),
}
"""Name, its parameters, and bins and frames of the features."""


def model_costs() -> list[ModelCost]:
    """Build the models and count."""
    costs = []
    for shown, (name, params, (bins, frames)) in _MODELS.items():
        features, model = torch.randn(2, 1, bins, frames), models.build(name, num_classes=WORDS, **params)
        costs.append(
            ModelCost(
                model=shown,
                parameters=model_figures.count_parameters(model),
                macs=model_figures.count_macs(model, features[:1]),
                activation_bytes=model_figures.activation_bytes(model, features),
            )
        )
    return costs


def scaling_rows(cost: ModelCost) -> list[dict[str, Any]]:
    """Return, for each number of GPUs, what summing costs at the shortest step that the device allows."""
    step_s = CLIPS_PER_GPU / cost.clips_per_s
    return [
        {
            "gpus": gpus,
            "all_reduce_us": 1e6 * all_reduce_s(cost.gradient_bytes, gpus),
            "all_reduce_bf16_us": 1e6 * all_reduce_s(cost.gradient_bytes / 2, gpus),
            "efficiency": efficiency(cost.gradient_bytes, gpus, step_s=step_s),
            "least_step_ms": 1e3 * least_step_s(cost.gradient_bytes, gpus),
            "least_clips": math.ceil(least_step_s(cost.gradient_bytes, gpus) * cost.clips_per_s),
        }
        for gpus in GPUS
    ]


def communication() -> list[dict[str, Any]]:
    """Return the figures of all models."""
    return [
        {
            **asdict(cost),
            "gradient_bytes": cost.gradient_bytes,
            "clips_per_s": cost.clips_per_s,
            "step_ms": 1e3 * CLIPS_PER_GPU / cost.clips_per_s,
            "rows": scaling_rows(cost),
        }
        for cost in model_costs()
    ]


def show(result: list[dict[str, Any]]) -> None:
    """Print the figures as a table, with a line for each number of GPUs."""
    table = Table(
        title=f"summing gradients on H200s: a model; steps of {CLIPS_PER_GPU} clips a GPU, at its limits",
        box=SIMPLE_HEAD,
    )
    table.add_column("model", no_wrap=True)
    times = ("all-reduce\nµs", "in bf16\nµs", "step\nms")
    for heading in ("gradient\nMB", "GPUs", *times, "efficiency", f"{_GOAL:.0%} from\nms", "from\nclips"):
        table.add_column(heading, justify="right")
    for model in result:
        name, gradient = model["model"], f"{model['gradient_bytes'] / 1e6:.2f}"
        for row in model["rows"]:
            sums = (f"{row['all_reduce_us']:.0f}", f"{row['all_reduce_bf16_us']:.0f}", f"{model['step_ms']:.2f}")
            least = (f"{row['least_step_ms']:.2f}", f"{row['least_clips']:,}")
            table.add_row(name, gradient, str(row["gpus"]), *sums, f"{row['efficiency']:.0%}", *least)
            name = gradient = ""
    Console().print(table)
