"""Ways of running a network: in tiles of one size, compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.lanes import Lanes, Watch, is_well_known

LOGGER = logging.getLogger(__name__)


PIXELS_PER_TILE = 1 << 12  # in fp32; what a core's caches hold, and not too many for one image
MOST_ROWS_OF_A_TILE = 64


def rows_of_a_tile(pixels: int, precision: str) -> int:
    """How many images one core takes at a time: 4 of 32x32 in fp32, 8 in half precision.

    Args:
        pixels: height times width of an image.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    fitting = PIXELS_PER_TILE * (1 if precision == "fp32" else 2) // pixels
    return min(MOST_ROWS_OF_A_TILE, max(1, fitting))


class Tiled(nn.Module):
    """Runs a network on tiles of ``rows`` images, whose activations a CPU's caches hold.

    A CPU's matrix product chooses its summation order by the number of rows and of threads, so that
    the last bits of an image would depend on the batch that it is made in and on the machine. In
    full tiles of one size, each computed by one thread, they do not.

    Args:
        network: any; where it is not made of our and torch's modules alone, its first tile is
            computed once more and watched: no lanes if that changes what they would share.
        rows: of a tile.
        lanes: compute tiles at the same time, each with one OpenMP thread; None: one tile after the
            other, with all OpenMP threads.
        lone_tile_in_a_lane: a single tile has one thread too, whatever the machine has: for bytes
            that do not depend on it. Else it has all OpenMP threads, for speed.
    """

    def __init__(
        self,
        network: nn.Module,
        rows: int,
        lanes: Lanes | None = None,
        lone_tile_in_a_lane: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.rows = rows
        self.num_classes = getattr(network, "num_classes", None)
        self.lanes = lanes
        self.lone_tile_in_a_lane = lone_tile_in_a_lane
        self._to_be_watched = not is_well_known(network)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Args: x (B, C, H, W), the last tile may have fewer rows; t (B,); labels (B,) or None."""
        tiles = range(0, len(x), self.rows)
        parts = [slice(first, first + self.rows) for first in tiles]

        def tile(part: slice) -> Tensor:
            given = () if labels is None else (labels[part],)
            return self.network(x[part], t[part], *given)

        if self._to_be_watched and self.lanes is not None:
            self._to_be_watched = False
            with Watch(self.network) as watch:
                tile(parts[0])
            if watch.found is not None:
                LOGGER.info("one tile after the other, since the network %s", watch.found)
                self.lanes = None
        if self.lanes is None or (len(parts) == 1 and not self.lone_tile_in_a_lane):
            return torch.cat([tile(part) for part in parts])
        return torch.cat(list(self.lanes.map(tile, parts)))


def tiled(denoiser: Denoiser, pixels: int, lanes: Lanes) -> Denoiser:
    """The same denoiser, whose network runs in fp32's tiles of ``pixels`` pixels an image."""
    network = Tiled(denoiser.network, rows_of_a_tile(pixels, "fp32"), lanes)
    return Denoiser(network, denoiser.schedule, denoiser.objective, denoiser.loss_weight)


class Compiled(nn.Module):
    """Runs a network or a loss through torch.compile, and without it from the moment that it fails.

    The failures meant are the compiler's, which show at the first call and are logged; an error of
    the module itself comes again from the plain call, and out of memory is no failure of either.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.num_classes = getattr(module, "num_classes", None)
        self._compiled: Callable[..., Tensor] | None = torch.compile(module, dynamic=False)

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Args: as the module takes them, best of the same shapes at each call."""
        if self._compiled is not None:
            try:
                return self._compiled(*inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self.give_up(error)
        return self.module(*inputs)

    def give_up(self, error: Exception) -> None:
        """Do without the compiler from now on."""
        if self._compiled is not None:
            self._compiled = None
            LOGGER.warning("torch.compile failed, going on without it: %s", first_line(error))


def first_line(error: Exception) -> str:
    """What an error says, in one line: its type and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
