"""Opens stores on two ranks and writes down what each of them holds, or how it failed.

Arguments: the rank, a file where the ranks meet, a folder for the records, then cases: residency, policy and dataset,
joined by colons.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from kws_dist.data.clip_reader import ClipPolicy
from kws_dist.data.share import Share
from kws_dist.data.store import open_store
from kws_dist.errors import DataError
from kws_dist.shards.read import open_dataset

WORLD = 2


def all_gather(own: torch.Tensor) -> torch.Tensor:
    gathered = [torch.empty_like(own) for _ in range(WORLD)]
    dist.all_gather(gathered, own)
    return torch.stack(gathered)


def main() -> None:
    rank, meeting, folder, *cases = sys.argv[1:]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=WORLD)
    share = Share(int(rank), WORLD, all_gather)
    for number, case in enumerate(cases):
        residency, on_bad_clip, dataset = case.split(":")
        rows = open_dataset(Path(dataset), check_sizes=False).rows("train")
        policy = ClipPolicy(clip_samples=910, on_bad_clip=on_bad_clip)  # type: ignore[arg-type]
        record: dict[str, object]
        try:
            store = open_store(rows, policy, residency=residency, device=torch.device("cpu"), share=share)  # type: ignore[arg-type]
            pcm = store.gather(np.arange(len(store.rows)))
            record = {"keys": store.rows.keys, "skipped": store.skipped_keys, "pcm": pcm.tolist()}
        except DataError as error:
            record = {"error": str(error)}
        (Path(folder) / f"{number}-{rank}.json").write_text(json.dumps(record))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
