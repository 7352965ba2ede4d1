"""Ways of running a network: in tiles of one size, compiled, replayed as a CUDA graph."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.lanes import Lanes, is_well_known, watched

LOGGER = logging.getLogger(__name__)

PIXELS_PER_TILE = 1 << 12  # in fp32; what a core's caches hold, and not too many for one image
MOST_ROWS_OF_A_TILE = 64


def rows_of_a_tile(pixels: int, precision: str) -> int:
    """How many images of so many pixels one core takes at a time in "fp32", or in "bf16" or "fp16":
    4 of 32x32, or 8."""
    fitting = PIXELS_PER_TILE * (1 if precision == "fp32" else 2) // pixels
    return min(MOST_ROWS_OF_A_TILE, max(1, fitting))


class Around(nn.Module):
    """A network, or a loss, run in another way."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_classes = getattr(network, "num_classes", None)


class Tiled(Around):
    """Runs a network on tiles of `rows` images, whose activations a CPU's caches hold.

    A CPU's matrix product chooses its summation order by the number of rows and of threads, so that
    the last bits of an image would depend on the batch that it is made in and on the machine. In
    full tiles of one size, each computed by one thread, they do not.

    `lanes` compute tiles at the same time, each with one OpenMP thread; None: one tile after the
    other, with all OpenMP threads. With `lone_tile_in_a_lane` a single tile has one thread too, for
    bytes that do not depend on the machine; else it has all, for speed. Where a network is not made
    of our and torch's modules alone, its first tile is computed once more and watched: no lanes if
    that changes what they would share.
    """

    def __init__(
        self,
        network: nn.Module,
        rows: int,
        lanes: Lanes | None = None,
        lone_tile_in_a_lane: bool = True,
    ) -> None:
        super().__init__(network)
        self.rows, self.lanes, self.lone_tile_in_a_lane = rows, lanes, lone_tile_in_a_lane
        self._to_be_watched = not is_well_known(network)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), the last tile may have fewer rows; t (B,); labels (B,) or None."""
        tiles = range(0, len(x), self.rows)
        parts = [slice(first, first + self.rows) for first in tiles]

        def tile(part: slice) -> Tensor:
            given = () if labels is None else (labels[part],)
            return self.network(x[part], t[part], *given)

        if self._to_be_watched and self.lanes is not None:
            self._to_be_watched = False
            with watched(self.network) as found:
                tile(parts[0])
            if found:
                LOGGER.info("one tile after the other, since the network %s", found[0])
                self.lanes = None
        if self.lanes is None or (len(parts) == 1 and not self.lone_tile_in_a_lane):
            return torch.cat([tile(part) for part in parts])
        return torch.cat(list(self.lanes.map(tile, parts)))


def tiled(denoiser: Denoiser, pixels: int, lanes: Lanes) -> Denoiser:
    """The same denoiser, whose network runs in fp32's tiles of `pixels` pixels an image."""
    network = Tiled(denoiser.network, rows_of_a_tile(pixels, "fp32"), lanes)
    return Denoiser(network, denoiser.schedule, denoiser.objective, denoiser.loss_weight)


class Compiled(Around):
    """Runs a network or a loss through torch.compile, and without it from the moment that it fails.

    The failures meant are the compiler's, which show at the first call and are logged; an error of
    the module itself comes again from the plain call, and out of memory is no failure of either.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self._compiled: Callable[..., Tensor] | None = torch.compile(network, dynamic=False)

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """The network's answer to its inputs, which best have the same shapes at each call."""
        if self._compiled is not None:
            try:
                return self._compiled(*inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self.give_up(error)
        return self.network(*inputs)

    def give_up(self, error: Exception) -> None:
        """Do without the compiler from now on."""
        if self._compiled is not None:
            self._compiled = None
            LOGGER.warning("torch.compile failed, going on without it: %s", first_line(error))


def first_line(error: Exception) -> str:
    """What an error says, in one line: its type and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def capture(work: Callable[[], Any], stream: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, Any]:
    """The graph of what `work` launches, recorded on `stream`, and what it returned.

    Raises what `work` failed at, with the device usable again.
    """
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # Other threads (prefetching, checkpoints) may use the device while this one captures. On a
        # stream of ours: torch's default one belongs to whichever device captured first.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = work()
    except Exception as error:
        # What arrives says that a capture failed; what it failed at is the context.
        cause = error.__context__ if isinstance(error.__context__, Exception) else error
        _end_capture(stream, current)
        raise cause from None
    return graph, result


def _end_capture(captured: torch.cuda.Stream, stream: torch.cuda.Stream) -> None:
    """Make the device usable after a capture on `captured` that failed; `stream` goes on.

    Before torch 2.13 the capture's stream stays the current one, and the random generator takes
    itself to be captured until a capture succeeds, so that the next dropout would raise.
    """
    torch.cuda.set_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with (
        contextlib.suppress(RuntimeError),  # a device that captures nothing at all
        torch.cuda.graph(graph, stream=captured, capture_error_mode="thread_local"),
    ):
        torch.zeros((), device=stream.device)


class Captured(Around):
    """Runs a network for sampling, from its second call on as a CUDA graph, whose replay costs the
    host nothing.

    For inputs of the first call's shapes; others, as those of a last, smaller batch, and all after
    a capture that failed, run as they are. The graph reads the half-precision weights that autocast
    keeps while it lasts: this object must not outlive that context.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self._inputs: list[Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._failed = False

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,), labels (B,) or None, all on a GPU."""
        given = [x, t] if labels is None else [x, t, labels]
        if not self._inputs:
            self._inputs = [torch.empty_like(value) for value in given]
            return self.network(*given)
        shapes = [value.shape for value in given]
        if self._failed or shapes != [place.shape for place in self._inputs]:
            return self.network(*given)
        torch._foreach_copy_(self._inputs, given)
        if self._graph is None:
            try:
                stream = torch.cuda.Stream(x.device)
                self._graph, self._output = capture(lambda: self.network(*self._inputs), stream)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self._failed = True
                LOGGER.warning("sampling without a CUDA graph: %s", str(error).partition("\n")[0])
                return self.network(*given)
        self._graph.replay()
        return self._output.clone()
