"""Fails in one of several ways on the rank that is told to, while the others do what they would be doing.

Arguments: how the rank fails, which rank it is, and what the others do meanwhile.
"""

import os
import signal
import sys
import time
from datetime import timedelta

import torch
from accelerate import Accelerator
from torch.distributed import TCPStore, all_reduce

from kws_dist.errors import DataError, UsageError, main_guard
from kws_dist.training.failure import shared_fate

RANK = int(os.environ["RANK"])


def fail(how: str) -> None:
    if how == "damage":
        raise DataError("train-000000.tar: clip 'yes/1' is damaged: make the shards again")
    if how == "mistake":
        raise UsageError("--train.global_batch 13 should be divisible by 2: choose 12 or 14")
    if how == "fault":
        raise ZeroDivisionError("a fault of the program")
    assert how in ("killed", "orphaned")
    os.kill(os.getppid() if how == "orphaned" else os.getpid(), signal.SIGKILL)


def go_on(what: str) -> None:
    if what == "collective":
        while True:
            all_reduce(torch.ones(1))
    assert what == "stuck"  # as in a collective of NCCL, whose other ranks are gone: in C++, where no signal reaches
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(minutes=5))
    store.get("what nobody sets")


def main() -> None:
    how, ranks, meanwhile = sys.argv[1:4]
    accelerator = Accelerator()
    with shared_fate(accelerator, debug="--debug" in sys.argv):
        signal.signal(signal.SIGTERM, lambda *_: None)  # as the loop does, which stops at the next log point
        accelerator.wait_for_everyone()
        if str(RANK) in ranks.split(","):
            print(time.time(), flush=True)
            fail(how)
        go_on(meanwhile)


if __name__ == "__main__":
    raise SystemExit(main_guard(main, debug="--debug" in sys.argv))
