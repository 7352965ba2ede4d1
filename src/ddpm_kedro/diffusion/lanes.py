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


class Lanes:
    """Threads with one OpenMP thread each, started when they are first needed.

    Args:
        count: lanes that a batch is split into; 1: no lanes, each operation has all OpenMP threads.
        threads: lanes that run at the same time, the others wait for their turn; None: as many as
            there are cores, as OpenMP counts them. It changes no bytes.
    """

    def __init__(self, count: int, threads: int | None = None) -> None:
        self.count = count
        self.threads = min(count, threads or torch.get_num_threads())
        self._pool: ThreadPoolExecutor | None = None
        self._usual_interval = 0.0

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; the next call of :meth:`map` would start new ones."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
            sys.setswitchinterval(self._usual_interval)
            # Theirs became torch's setting for threads to come; make it ours again.
            torch.set_num_threads(torch.get_num_threads())

    def parts(self, rows: int) -> list[slice]:
        """The lanes' shares of ``rows`` rows; they differ by one row at most, and none is empty."""
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
        """``work`` of each piece, in the order of the pieces, whichever is done first.

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
        modes = _Modes()
        futures: deque[Future[Result]] = deque(
            self._pool.submit(modes.run, work, piece) for piece in pieces
        )
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


class _Modes:
    """Torch's modes of the thread that makes it, for another thread to compute in."""

    def __init__(self) -> None:
        self.grad, self.inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        self.autocast = torch.is_autocast_enabled("cpu")
        self.dtype = torch.get_autocast_dtype("cpu")
        self.cache = torch.is_autocast_cache_enabled()

    def run(self, work: Callable[[Piece], Result], piece: Piece) -> Result:
        torch.set_autocast_enabled("cpu", self.autocast)
        torch.set_autocast_dtype("cpu", self.dtype)
        torch.set_autocast_cache_enabled(self.cache)
        with torch.inference_mode(self.inference), torch.set_grad_enabled(self.grad):
            return work(piece)


# What a lane must have for itself -----------------------------------------------------------------


@contextlib.contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """In here, and in this thread alone, our dropout draws from ``generator``."""
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


class Watch:
    """Finds what a call of a network changes that lanes would share: then it needs one thread.

    Seen are draws from torch's global generator (dropout that is not ours, in a module or by
    ``torch.nn.functional``), changed buffers (running statistics), attributes set on a module, and
    lists, sets and dicts there that grow. Not seen is what the watched call happens not to do (a
    draw only now and then), and changes to objects that are no attribute of a module. Generator and
    buffers are put back; attributes are not.

    Args:
        network: whose call follows inside the ``with`` block.

    Attributes:
        found: what was changed, in words; None: nothing.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.found: str | None = None

    def __enter__(self) -> Watch:
        self._generator = torch.get_rng_state()
        self._buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        self._attributes = {name: _attributes(m) for name, m in self.network.named_modules()}
        return self

    def __exit__(self, *exception: object) -> None:
        if not torch.equal(torch.get_rng_state(), self._generator):
            self.found = "draws from torch's global random generator"
            torch.set_rng_state(self._generator)
        with torch.no_grad():
            for name, buffer in self.network.named_buffers():
                before = self._buffers.get(name)
                if before is None or not torch.equal(before, buffer):
                    self.found = f"changes its buffer {name}"
                    if before is not None:
                        buffer.copy_(before)
        for name, module in self.network.named_modules():
            before, now = self._attributes.get(name), _attributes(module)
            if before is None or before.keys() != now.keys():
                self.found = f"changes {name or 'itself'} in its forward pass"
                continue
            for key, (value, length) in now.items():
                if before[key][0] is not value or before[key][1] != length:
                    self.found = f"changes {f'{name}.{key}'.lstrip('.')} in its forward pass"


def _attributes(module: nn.Module) -> dict[str, tuple[Any, int | None]]:
    """Every attribute, and its length where it is a collection."""
    return {
        key: (value, len(value) if isinstance(value, list | dict | set | deque) else None)
        for key, value in vars(module).items()
    }
