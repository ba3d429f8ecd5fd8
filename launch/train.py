"""Train a model: `accelerate launch launch/train.py --config configs/bcresnet1.yaml --data.shards DIR`."""

import sys

from kws_dist.config import Config, parse
from kws_dist.errors import main_guard
from kws_dist.process import keep_freed_memory, use_cores
from kws_dist.training.failure import shared_fate
from kws_dist.training.job import build_job
from kws_dist.training.ranks import make_accelerator
from kws_dist.training.session import run_job
from kws_dist.training.stop import StopRequest


def train(config: Config, *, debug: bool) -> None:
    """Run one job from start to end, on every process that was launched."""
    keep_freed_memory()
    accelerator = make_accelerator(config.train)
    if accelerator.device.type == "cpu":
        use_cores()
    minutes, grace_s = config.train.job_minutes, config.train.stop_grace_s
    with (
        StopRequest(job_minutes=minutes, grace_s=grace_s, to_the_end=True) as stop,
        shared_fate(accelerator, debug=debug),
    ):
        run_job(build_job(config, accelerator), stop)


if __name__ == "__main__":
    debug = "--debug" in sys.argv
    raise SystemExit(main_guard(lambda: train(parse(sys.argv[1:]), debug=debug), debug))
