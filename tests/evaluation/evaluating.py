"""Evaluates a few models on however many ranks it is launched, and has rank 0 write down what came out.

Arguments: a file for the results, then a folder of shards.
"""

import json
import math
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from kws_dist.config import FeaturesConfig
from kws_dist.data.clip_reader import ClipPolicy
from kws_dist.data.store import open_store
from kws_dist.evaluation.evaluate import Evaluator
from kws_dist.shards.read import open_dataset
from kws_dist.training.front_end import evaluation_front_end

WORDS = 3


class Answers(nn.Module):
    """Projects features on fixed directions, and puts `spoilt` in place of some logits."""

    def __init__(self, spoilt: float | None = None) -> None:
        super().__init__()
        self.spoilt = spoilt

    def forward(self, features: Tensor) -> Tensor:
        directions = torch.randn(features[0].numel(), WORDS, generator=torch.Generator().manual_seed(4))
        logits = (features - features.mean(3, keepdim=True)).flatten(1) @ directions / 20
        return logits if self.spoilt is None else logits.masked_fill(logits[:, :1].long() % 2 == 0, self.spoilt)


class Indifferent(nn.Module):
    """Finds all words equally likely."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.zeros(len(features), WORDS)


MODELS = {
    "some": Answers(),
    "broken": Answers(math.nan),
    "unbounded": Answers(math.inf),
    "indifferent": Indifferent(),
}


def main() -> None:
    file, shards = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    accelerator = Accelerator()
    dataset = open_dataset(shards)
    policy = ClipPolicy(clip_samples=dataset.sample_rate_hz)
    store = open_store(dataset.rows("train"), policy, residency="device", device=accelerator.device)
    front_end = evaluation_front_end(FeaturesConfig(), dataset.sample_rate_hz, None)
    evaluate = Evaluator(store, front_end, accelerator, num_classes=WORDS, batch_per_rank=4)
    results = {}
    for name, model in MODELS.items():
        for worst in (0, 5, 1000):
            evaluation = evaluate(model.train(), worst=worst)
            results[f"{name} {worst}"] = {
                "worst": [vars(clip) for clip in evaluation.worst],
                "figures": evaluation.as_dict(dataset.words),
                "loss": evaluation.loss,
                "in_training": model.training,
            }
    if accelerator.is_main_process:
        file.write_text(json.dumps(results))
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
