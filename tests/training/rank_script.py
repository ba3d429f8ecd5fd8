"""Takes optimizer steps on however many ranks it is launched and writes down what each rank drew and learnt.

Arguments: a folder for the records, then the settings of a training.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from kws_dist.config import Config, parse
from kws_dist.data.workers import Batch
from kws_dist.display import silent
from kws_dist.tracking import Tracker
from kws_dist.training.job import build_job
from kws_dist.training.parts import evaluator_of, parts_of
from kws_dist.training.ranks import make_accelerator
from kws_dist.training.stop import StopRequest

STEPS = 10


def main() -> None:
    folder, settings = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    config = parse(settings)
    accelerator = make_accelerator(config.train)
    take_down(folder, config, accelerator)
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # as in `shared_fate`: no DDP outlives its process group
    accelerator.end_training()


def take_down(folder: Path, config: Config, accelerator: Accelerator) -> None:
    """Train, and write down what this rank drew and learnt."""
    job = build_job(config, accelerator)
    parts = parts_of(job, StopRequest(), Tracker([]), silent())
    drawn: list[np.ndarray] = []
    weights: dict[str, torch.Tensor] = {}

    def noted(batch: Batch) -> Batch:
        drawn.append(np.stack([batch.draws.t, batch.draws.clip, batch.labels.numpy()]))
        return batch

    batches = map(noted, parts.worker.batches(0, STEPS))
    for step in range(STEPS):
        parts.step(batches, step=step, real_rows=parts.sampler.real_rows(step), rate=0.05)
        if step + 1 in (1, STEPS):
            weights |= {f"{step + 1}.{name}": p.detach().clone() for name, p in job.learner.model.named_parameters()}
            averaged = job.learner.average.module.named_parameters() if job.learner.average else ()
            weights |= {f"{step + 1}.average.{name}": p.clone() for name, p in averaged}
    figures = parts.step.read(stop=accelerator.process_index == 1)
    rank = accelerator.process_index
    np.savez(folder / f"draws-{accelerator.num_processes}-{rank}.npz", drawn=np.concatenate(drawn, axis=1))
    save_file(weights, folder / f"weights-{accelerator.num_processes}-{rank}.safetensors")
    confusion = evaluator_of(job, "test", StopRequest())(parts.evaluated_model()).confusion
    buffers = [b.double().sum().item() for b in job.learner.evaluated.buffers()]
    np.savez(
        folder / f"figures-{accelerator.num_processes}-{rank}.npz",
        loss=figures.loss,
        stop=figures.stop,
        confusion=confusion,
        buffers=buffers,
    )


if __name__ == "__main__":
    main()
