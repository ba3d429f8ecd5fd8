"""Things that rank 0 does for all."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from kws_dist.errors import DataError, UsageError

T = TypeVar("T")


def on_rank_0(accelerator: Accelerator, do: Callable[[], T]) -> T:
    """Call `do` on rank 0 and return what it returned on every rank; its error is raised on every rank.

    So no rank waits for another that has given up. The result must be small and picklable.
    """
    outcome: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = do()
        except (UsageError, DataError) as error:
            outcome[1] = error
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if isinstance(outcome[1], Exception):
        raise outcome[1]
    return outcome[0]  # pyright: ignore[reportReturnType]
