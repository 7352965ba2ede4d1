"""Lanes: pieces of a batch that go through a network at the same time, each on one core.

Several OpenMP threads share every single operation and meet at its end, hundreds of times in one
pass through a network. Beside another busy process they wait each time for the one of them that
has no core. Lanes meet once, when all are through; and since each computes with one OpenMP thread,
the bytes depend on how the batch was split, not on how many cores there were.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch
from torch import nn

Piece = TypeVar("Piece")
Result = TypeVar("Result")
WELL_KNOWN = ("ddpm_kedro.", "torch.nn.")
SWITCH_SECONDS = 1e-3  # how long a lane waits for Python's lock before it asks for it; usual: 5e-3

_of_this_thread = threading.local()


class Lanes(contextlib.AbstractContextManager["Lanes"]):
    """Threads with one OpenMP thread each, started when they are first needed.

    A batch is split into `count` lanes; 1: none, each operation has all OpenMP threads. `threads`
    of them run at the same time, which changes no bytes; None: as many as OpenMP counts cores.
    """

    def __init__(self, count: int, threads: int | None = None) -> None:
        self.count = count
        self.threads = min(count, threads or torch.get_num_threads())
        self._pool: ThreadPoolExecutor | None = None
        self._usual_interval = 0.0

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; the next call of `map` would start new ones."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
            sys.setswitchinterval(self._usual_interval)
            # Theirs became torch's setting for threads to come; make it ours again.
            torch.set_num_threads(torch.get_num_threads())

    def parts(self, rows: int) -> list[slice]:
        """The lanes' shares of `rows` rows; they differ by one row at most, and none is empty."""
        count = min(self.count, rows)
        bounds = [rows * lane // count for lane in range(count + 1)]
        return [slice(*pair) for pair in itertools.pairwise(bounds)]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """The calling thread computes as a lane does, with one OpenMP thread, if there are lanes.

        So its sums have the bytes of one thread too, and leave no OpenMP thread behind that waits
        busily on a core that a lane could use.
        """
        before = torch.get_num_threads()
        if self.count > 1:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if self.count > 1:
                torch.set_num_threads(before)

    def map(self, work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[Result]:
        """`work` of each piece, in the order of the pieces, whichever is done first.

        Gradients, autocast and inference mode are on or off in a lane as they are here. An error in
        a lane comes out where its result would, when no other lane is at work any more.
        """
        if self.threads == 1:
            for piece in pieces:
                with self.alone():
                    result = work(piece)
                yield result
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, "lane", initializer=_begin_lane)
            self._usual_interval = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_SECONDS)
        work = _in_modes_of_this_thread(work)
        futures: deque[Future[Result]] = deque(self._pool.submit(work, piece) for piece in pieces)
        try:
            while futures:
                yield futures.popleft().result()  # and nothing keeps it when the caller is done
        finally:
            for future in futures:
                future.cancel()
            wait(futures)


def _begin_lane() -> None:
    torch.set_num_threads(1)
    # An autocast block inside a network would otherwise, at its end, clear the cast weights that
    # the caller's block keeps for all lanes.
    torch.autocast_increment_nesting()


def _in_modes_of_this_thread(work: Callable[[Piece], Result]) -> Callable[[Piece], Result]:
    """`work` for another thread to do, with gradients and autocast on or off as they are here."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    autocast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    cache = torch.is_autocast_cache_enabled()

    def run(piece: Piece) -> Result:
        torch.set_autocast_enabled("cpu", autocast)
        torch.set_autocast_dtype("cpu", dtype)
        torch.set_autocast_cache_enabled(cache)
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return work(piece)

    return run


# What a lane must have for itself -----------------------------------------------------------------


@contextlib.contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """In here, and in this thread alone, our dropout draws from `generator`."""
    _of_this_thread.generator = generator
    try:
        yield
    finally:
        _of_this_thread.generator = None


def generator_of_this_lane() -> torch.Generator | None:
    """What dropout draws from; None: torch's global generator."""
    return getattr(_of_this_thread, "generator", None)


def is_well_known(network: nn.Module) -> bool:
    """Whether all modules are ours or torch's, which in evaluation mode keep nothing of a call."""
    return all(type(module).__module__.startswith(WELL_KNOWN) for module in network.modules())


@contextlib.contextmanager
def watched(network: nn.Module) -> Iterator[list[str]]:
    """In words, what the block's call of `network` changes that lanes would share: with anything in
    this list it needs one thread.

    Seen are draws from torch's global generator (dropout that is not ours, in a module or by
    `torch.nn.functional`), changed buffers (running statistics), attributes set on a module, and
    lists, sets and dicts there that grow. Not seen is what the watched call happens not to do (a
    draw only now and then), and changes to objects that are no attribute of a module. Generator and
    buffers are put back; attributes are not.
    """
    found: list[str] = []
    generator, attributes = torch.get_rng_state(), _attributes(network)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    yield found
    if not torch.equal(torch.get_rng_state(), generator):
        found.append("draws from torch's global random generator")
        torch.set_rng_state(generator)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            before = buffers.get(name)
            if before is None or not torch.equal(before, buffer):
                found.append(f"changes its buffer {name}")
                if before is not None:
                    buffer.copy_(before)
    now, absent = _attributes(network), (None, -1)
    for path in {**attributes, **now}:
        (was, length), (value, length_now) = attributes.get(path, absent), now.get(path, absent)
        if was is not value or length != length_now:
            found.append(f"changes {path} in its forward pass")


def _attributes(network: nn.Module) -> dict[str, tuple[Any, int | None]]:
    """Every attribute of every module, and its length where it is a collection."""
    return {
        f"{name}.{key}".lstrip("."): (
            value,
            len(value) if isinstance(value, list | dict | set | deque) else None,
        )
        for name, module in network.named_modules()
        for key, value in vars(module).items()
    }
