"""Work recorded once as a CUDA graph and replayed, so that launching its kernels costs nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LOGGER = logging.getLogger(__name__)


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


class Captured(nn.Module):
    """Runs a network for sampling, from its second call on as a CUDA graph.

    For inputs of the first call's shapes; others, as those of a last, smaller batch, and all after
    a capture that failed, run as they are. The graph reads the half-precision weights that autocast
    keeps while it lasts: this object must not outlive that context.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_classes = getattr(network, "num_classes", None)
        self._inputs: list[Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._failed = False

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Args: x (B, C, H, W), t (B,), labels (B,) or None, all on a GPU."""
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
