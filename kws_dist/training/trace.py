"""Where the time of training steps went, read from a trace of torch's profiler (Chrome's trace format)."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Event = dict[str, Any]
Span = tuple[float, float]
"""Start and end, in microseconds."""

MARK = "kws/"
"""What the names of the ranges begin with that this project puts around the parts of a step."""

_ALL_REDUCE, _OTHER, _REST = "all-reduce", "other", "rest"
_STEPS_PARTS = ("data", "features", "forward", "backward", _ALL_REDUCE, "optimizer")
_FIRST = ("forward", "backward", "optimizer")
_BESIDE = ("features", "data", _ALL_REDUCE)
"""What may run beside the rest, in other threads or streams: its time counts where nothing else goes on."""

_OPERATION = "operation of the training thread"
_ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}


@dataclass(frozen=True)
class Part:
    """One part of a step."""

    name: str
    time_ms: float
    """Per step; the time in which nothing that comes before it went on, so that parts add up to the step."""
    beside_ms: float
    """Per step; the time that it took besides, while another part went on."""
    share: float
    """Of the step, in [0, 1]: of `time_ms` alone."""


@dataclass(frozen=True)
class Operation:
    """All calls of one operation."""

    name: str
    self_ms: float
    """Per step, without the operations that it called; on a GPU the time of its kernels."""
    share: float
    """Of the step; in threads and streams side by side, these may add up to more than 1."""
    calls: float
    """Per step; of its kernels, on a GPU."""


@dataclass(frozen=True)
class Summary:
    """What a trace says about its steps."""

    steps: int
    step_ms: float
    """Wall time of a step, on average."""
    on_gpu: bool
    """Times are those of the GPU; else those of the processor."""
    parts: tuple[Part, ...]
    """The whole step: what is in no part is the last one, called `rest`."""
    operations: tuple[Operation, ...]
    """Those with the most time of their own, the slowest first."""


def summarize(events: Iterable[Event], steps: int, top: int = 10) -> Summary:
    """Sum up the first `steps` steps of a trace, the value of its `traceEvents`."""
    complete = [event for event in events if event.get("ph") == "X"]
    marked = [event for event in complete if event.get("cat") == "user_annotation"]
    windows = sorted((e for e in marked if e["name"].startswith("ProfilerStep#")), key=lambda e: e["ts"])[:steps]
    window = windows[0]["ts"], _end(windows[-1])
    inside = [event for event in complete if event["ts"] < window[1] and _end(event) > window[0]]
    on_gpu = any(event.get("cat") in _ON_DEVICE for event in inside)
    thread = windows[0]["tid"]
    spans = _device_spans(inside, thread) if on_gpu else _host_spans(inside, thread)
    step_ms = (window[1] - window[0]) / 1000 / len(windows)
    return Summary(
        steps=len(windows),
        step_ms=step_ms,
        on_gpu=on_gpu,
        parts=_parts(spans, window, len(windows)),
        operations=tuple(_operations(inside, on_gpu, len(windows), step_ms)[:top]),
    )


def _end(event: Event) -> float:
    return event["ts"] + event["dur"]


def _span(event: Event) -> Span:
    return event["ts"], _end(event)


def _host_spans(events: list[Event], thread: int) -> dict[str, list[Span]]:
    """Return when each part went on, and the operations of the training thread."""
    spans: dict[str, list[Span]] = defaultdict(list)
    for ranges in _marks(events).values():
        for event in ranges:
            spans[event["name"].removeprefix(MARK)].append(_span(event))
    spans[_ALL_REDUCE] = [_span(event) for event in events if event["name"].startswith("gloo:")]
    spans[_OPERATION] = [_span(event) for event in events if event["tid"] == thread and event["cat"] == "cpu_op"]
    return spans


def _marks(events: list[Event]) -> dict[int, list[Event]]:
    """Return this project's ranges of each thread in order, without those inside another one."""
    ranges: dict[int, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        if event["name"].startswith(MARK) and event["cat"] == "user_annotation":
            of_thread = ranges[event["tid"]]
            if not of_thread or event["ts"] >= _end(of_thread[-1]):
                of_thread.append(event)
    return ranges


def _device_spans(events: list[Event], thread: int) -> dict[str, list[Span]]:
    """Return when the GPU worked on each part: on the one in whose range the work was launched."""
    ranges = _marks(events)
    spans: dict[str, list[Span]] = defaultdict(list)
    for event, launch in _launched(events):
        part = _OTHER
        if event["name"].startswith("nccl"):
            part = _ALL_REDUCE
        elif launch:
            # A thread without marks is autograd's, for which the training thread waits inside its own mark.
            part = _mark_at(ranges.get(launch["tid"]) or ranges[thread], launch["ts"]) or _OTHER
        spans[part].append(_span(event))
    return spans


def _launched(events: list[Event]) -> Iterator[tuple[Event, Event | None]]:
    """Yield all work of the GPU, each with the call by which the host launched it, if the trace has that."""
    calls = (event for event in events if event.get("cat") in ("cuda_runtime", "cuda_driver"))
    launches = {event["args"]["correlation"]: event for event in calls if "correlation" in event["args"]}
    for event in events:
        if event.get("cat") in _ON_DEVICE:
            yield event, launches.get(event["args"].get("correlation"))


def _mark_at(ranges: list[Event], time_us: float) -> str | None:
    """Return the part whose range holds a time."""
    place = bisect_right(ranges, time_us, key=lambda event: event["ts"]) - 1
    if place < 0 or _end(ranges[place]) < time_us:
        return None
    return ranges[place]["name"].removeprefix(MARK)


def _parts(spans: dict[str, list[Span]], window: Span, steps: int) -> tuple[Part, ...]:
    """Give each moment to one part, and count what went on beside it."""
    others = sorted(spans.keys() - {*_STEPS_PARTS, _OPERATION, _OTHER})
    order = (*_FIRST, *others, _OTHER, *_BESIDE)
    alone: dict[str, float] = defaultdict(float)
    beside: dict[str, float] = defaultdict(float)
    waits_show = _OPERATION in spans
    for start_us, end_us, active in _moments(spans, window):
        going_on = [name for name in order if name in active]
        if waits_show and going_on[:1] == ["backward"] and _ALL_REDUCE in active and _OPERATION not in active:
            going_on.remove("backward")  # it waits
        alone[going_on[0] if going_on else _REST] += end_us - start_us
        for name in going_on[1:]:
            beside[name] += end_us - start_us
    shown = [*_STEPS_PARTS, *others, *([_OTHER] if spans.get(_OTHER) else []), _REST]
    whole_us = window[1] - window[0]
    per_step = 1 / 1000 / steps
    return tuple(Part(name, alone[name] * per_step, beside[name] * per_step, alone[name] / whole_us) for name in shown)


def _moments(spans: dict[str, list[Span]], window: Span) -> Iterator[tuple[float, float, Counter[str]]]:
    """Cut the window where anything begins or ends; yield the pieces with what goes on in them."""
    edges: list[tuple[float, int, str]] = []
    for name, of_part in spans.items():
        for start_us, end_us in of_part:
            edges += [(max(start_us, window[0]), 1, name), (min(end_us, window[1]), -1, name)]
    before_us, active = window[0], Counter[str]()
    for time_us, change, name in [*sorted(edges), (window[1], 0, _REST)]:
        if time_us > before_us:
            yield before_us, time_us, active
        before_us = time_us
        active[name] += change
        if active[name] == 0:
            del active[name]


def _operations(events: list[Event], on_gpu: bool, steps: int, step_ms: float) -> list[Operation]:
    """Return the operations by their own time."""
    self_us: dict[str, float] = defaultdict(float)
    calls = Counter[str]()
    for name, time_us in _device_times(events) if on_gpu else _host_times(events):
        self_us[name] += time_us
        calls[name] += 1
    return [
        Operation(name, time_us / 1000 / steps, time_us / 1000 / steps / step_ms, calls[name] / steps)
        for name, time_us in sorted(self_us.items(), key=lambda item: -item[1])
    ]


def _device_times(events: list[Event]) -> Iterator[tuple[str, float]]:
    """Yield the time of each kernel or copy, under the name of the operation that launched it, if it is known."""
    names = {event["args"].get("External id"): event["name"] for event in events if event.get("cat") == "cpu_op"}
    for event, launch in _launched(events):
        by = launch or event
        yield names.get(by["args"].get("External id"), event["name"]), event["dur"]


def _host_times(events: list[Event]) -> Iterator[tuple[str, float]]:
    """Yield the time of each operation without those that it called."""
    of_thread: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        if event.get("cat") in ("cpu_op", "user_annotation"):
            of_thread[event["tid"]].append(event)
    for some in of_thread.values():
        open_now: list[list[Any]] = []  # each with the time that is left to itself
        for event in [*sorted(some, key=lambda event: (event["ts"], -event["dur"])), None]:
            while open_now and (event is None or _end(open_now[-1][0]) <= event["ts"]):
                done, left_us = open_now.pop()
                if done["cat"] == "cpu_op" or done["name"].startswith("gloo:"):
                    yield done["name"], left_us
            if event is not None:
                if open_now:
                    open_now[-1][1] -= event["dur"]
                open_now.append([event, event["dur"]])
