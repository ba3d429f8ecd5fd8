"""Work done ahead of its use by threads, the most urgent first; whoever needs a result that nobody works on does it."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

T = TypeVar("T")

_LEAVE_S = 2.0


class Ahead(Generic[T]):
    """Results of `work(number)` for numbers that are named before they are needed, by `threads` daemon threads."""

    def __init__(self, work: Callable[[int], T], threads: int) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._now: Sequence[int] = ()
        self._soon: Sequence[int] = ()
        self._futures: dict[int, Future[T]] = {}
        self._early = set[int]()
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, daemon=True, name="ahead") for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def want(self, now: Sequence[int], soon: Sequence[int] = ()) -> list[int]:
        """Name all that is wanted from now on, the most urgent first; return those of which the results are dropped."""
        with self._changed:
            self._now, self._soon = now, soon
            unwanted = self._futures.keys() - {*now, *soon}
            done = {number: self._futures[number] for number in unwanted if self._futures[number].done()}
            for number in done:
                self._drop(number)
            self._changed.notify_all()
        return [number for number, future in done.items() if not _failed(future)]

    def clear(self) -> list[int]:
        """Want nothing, and wait for what is being worked on; return those of which the results are dropped."""
        dropped = self.want(())
        with self._changed:
            begun = list(self._futures.values())
        wait(begun)
        return dropped + self.want(())

    def result(self, number: int) -> T:
        """Return the result, working for it in this thread if nobody else does; raises what the work raised.

        Work that failed is done anew when it is asked for again; and at once, if it was begun when it was not urgent.
        """
        with self._changed:
            is_mine = number not in self._futures
            future = self._futures.setdefault(number, Future())
        if is_mine:
            self._do(number, future)
        wait([future])
        if not _failed(future):
            return future.result()
        was_early = number in self._early
        self.forget(number)
        return self.result(number) if was_early else future.result()

    def forget(self, number: int) -> None:
        """Drop a result or a failure."""
        with self._changed:
            self._drop(number)

    def close(self) -> None:
        """Begin nothing more, wait a little for what was begun, and drop all results."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until_s = time.monotonic() + _LEAVE_S
        for thread in self._threads:
            thread.join(max(until_s - time.monotonic(), 0.0))
        with self._changed:
            self._futures = {number: future for number, future in self._futures.items() if not future.done()}

    def _drop(self, number: int) -> None:
        self._futures.pop(number, None)
        self._early.discard(number)

    def _serve(self) -> None:
        while (number := self._take()) is not None:
            self._do(number, self._futures[number])  # kept in no variable: what is dropped has to be gone

    def _take(self) -> int | None:
        """Wait for something to do, and mark it as begun; None at the end."""
        with self._changed:
            while not self._closed:
                number = next((number for number in (*self._now, *self._soon) if number not in self._futures), None)
                if number is not None:
                    self._futures[number] = Future()
                    if number not in self._now:
                        self._early.add(number)
                    return number
                self._changed.wait()
        return None

    def _do(self, number: int, future: Future[T]) -> None:
        try:
            future.set_result(self._work(number))
        except BaseException as error:  # noqa: BLE001 - it surfaces where the result is asked for
            future.set_exception(error)


def do_all(work: Callable[[int], object], count: int, threads: int) -> None:
    """Do the work for 0, 1, ... count - 1 in threads; raises the first error."""
    ahead = Ahead(work, threads)
    try:
        ahead.want(range(count))
        for number in range(count):
            ahead.result(number)
    finally:
        ahead.close()


def _failed(future: Future[T]) -> bool:
    return future.done() and future.exception() is not None
