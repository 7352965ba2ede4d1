"""Ways of running a network when sampling: in tiles of one size, compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


PIXELS_PER_TILE = 1 << 13  # in fp32; what a CPU's caches hold, and not too many for one image
MOST_ROWS_OF_A_TILE = 64


def rows_of_a_tile(pixels: int, precision: str) -> int:
    """How many images a CPU takes at a time: 8 of 32x32 in fp32, 16 in half precision.

    Args:
        pixels: height times width of an image.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    fitting = PIXELS_PER_TILE * (1 if precision == "fp32" else 2) // pixels
    return min(MOST_ROWS_OF_A_TILE, max(1, fitting))


class Tiled(nn.Module):
    """Runs a network on tiles of ``rows`` images, whose activations a CPU's caches hold.

    A CPU's matrix product chooses its summation order by the number of rows, so that the last bits
    of an image would depend on the batch that it is made in. In full tiles of one size they do not.
    """

    def __init__(self, network: nn.Module, rows: int) -> None:
        super().__init__()
        self.network = network
        self.rows = rows
        self.num_classes = getattr(network, "num_classes", None)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Args: x (B, C, H, W), the last tile may have fewer rows; t (B,); labels (B,) or None."""
        tiles = range(0, len(x), self.rows)
        parts = [slice(first, first + self.rows) for first in tiles]
        return torch.cat(
            [
                self.network(x[part], t[part], None if labels is None else labels[part])
                for part in parts
            ]
        )


class Compiled(nn.Module):
    """Runs a network through torch.compile, and without it from the moment that it fails.

    The failures meant are the compiler's, which show at the first call and are logged; an error of
    the network itself comes again from the plain call.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_classes = getattr(network, "num_classes", None)
        self._compiled: Callable[..., Tensor] | None = torch.compile(network, dynamic=False)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Args: x (B, C, H, W), best of the same B at each call; t (B,); labels (B,) or None."""
        if self._compiled is not None:
            try:
                return self._compiled(x, t, labels)
            except torch.OutOfMemoryError:  # no fault of the compiler's
                raise
            except Exception as error:
                self._compiled = None
                reason = str(error).strip().split("\n", 1)[0]
                logger.warning("torch.compile failed, going on without it: %s", reason)
        return self.network(x, t, labels)
