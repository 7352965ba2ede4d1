"""Variance-preserving schedules of T levels at t = 0, 1, ..., T-1.

The clean image is at t = -1, so that the first noisy level has sigma^2 = beta_0 and not zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddpm_kedro.diffusion.noise_schedule.base import NoiseSchedule, real_dtype
from ddpm_kedro.errors import InputError

MAX_BETA = 0.999  # Nichol & Dhariwal 2021, section 3.2: keeps the last levels from being singular
MAX_TIMESTEPS = 1_000_000


class DiscreteSchedule(NoiseSchedule):
    """Variance-preserving schedule of T levels given by its table of alpha_bar.

    alpha(t)^2 = alpha_bar[t] and sigma(t)^2 = 1 - alpha_bar[t] at t = 0..T-1, alpha_bar[-1] = 1;
    between levels alpha_bar is interpolated linearly. DDPM (Ho et al. 2020), eq. 4.

    alpha_bar: (T,) float64, strictly falling, in [0, 1).
    """

    t_clean = -1.0

    def __init__(self, alpha_bar: Tensor) -> None:
        alpha_bar = alpha_bar.to("cpu", torch.float64)
        # Entry i is level i - 1. The last is there twice so that t_max itself can be interpolated.
        table = torch.cat([alpha_bar.new_ones(1), alpha_bar, alpha_bar[-1:]])
        wrong = ~((table[:-1].diff() < 0) & (alpha_bar >= 0))
        if wrong.any():
            raise InputError(
                f"{type(self).__name__}: alpha_bar must fall strictly from below 1 and stay >= 0; "
                f"it does not at timestep {int(wrong.nonzero()[0])}"
            )
        self.num_timesteps, self.t_max = len(alpha_bar), float(len(alpha_bar) - 1)
        self._tables = {table.device: table}

    @property
    def alpha_bar(self) -> Tensor:
        """(T,) float64 on the CPU: alpha(t)^2 at t = 0..T-1."""
        return self._table(torch.device("cpu"))[1:-1]

    @property
    def betas(self) -> Tensor:
        """(T,) float64 on the CPU: beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, t = 0..T-1."""
        table = self._table(torch.device("cpu"))
        return 1 - table[1:-1] / table[:-2]

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            cpu = self._tables[torch.device("cpu")]
            self._tables[device] = cpu.to(real_dtype(device)).to(device)
        return self._tables[device]

    def _alpha_bar_at(self, t: Tensor) -> Tensor:
        table = self._table(t.device)
        place = (t.to(table.dtype) + 1).clamp(0, self.num_timesteps)
        below = place.floor()
        index = below.long()
        here, after = _look_up(table, index), _look_up(table, index + 1)
        return here + (place - below) * (after - here)

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha_bar_at(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self._alpha_bar_at(t)).sqrt()

    def time_input(self, t: Tensor) -> Tensor:
        """The level's index 0..T-1 itself, as a real number."""
        return t.float()

    def from_log_snr(self, log_snr: Tensor) -> Tensor:
        table = self._table(log_snr.device)[:-1]
        alpha_bar = torch.sigmoid(log_snr.to(table.dtype))
        above = torch.searchsorted(-table, -alpha_bar).clamp(1, self.num_timesteps)
        high, low = _look_up(table, above - 1), _look_up(table, above)
        return ((high - alpha_bar) / (high - low)).clamp(0, 1) + above.to(table.dtype) - 2

    def from_uniform(self, u: Tensor) -> Tensor:
        return (u.to(real_dtype(u.device)) * self.num_timesteps).floor()


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """table[index] without the wait: indexing with a single number reads it back to the host."""
    return table.index_select(0, index.reshape(-1)).reshape(index.shape)


def _check_num_timesteps(num_timesteps: int) -> None:
    # Bounded above too: a model file that nobody vouches for must not claim all memory.
    if not isinstance(num_timesteps, int) or not 1 <= num_timesteps <= MAX_TIMESTEPS:
        raise InputError(
            f"num_timesteps: a whole number of at least 1 and at most {MAX_TIMESTEPS:,}, "
            f"not {num_timesteps!r}"
        )


def _from_betas(betas: Tensor) -> Tensor:
    return torch.log1p(-betas).cumsum(0).exp()


def _from_path(path: Tensor) -> Tensor:
    """alpha_bar (T,) from a falling path (T+1,) at t = -1..T-1, with beta capped at MAX_BETA."""
    return _from_betas((1 - path[1:] / path[:-1]).clamp(max=MAX_BETA))


class LinearSchedule(DiscreteSchedule):
    """beta_t linear from beta_start to beta_end, both times 1000/T (Ho et al. 2020, section 4).

    The factor keeps the noise at the end the same for every T. Raises InputError where that makes
    beta reach 1, as with the standard values for T <= 20.
    """

    def __init__(
        self, num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> None:
        _check_num_timesteps(num_timesteps)
        scale = 1000 / num_timesteps
        if not 0 < beta_start <= beta_end:
            raise InputError(
                f"LinearSchedule: needs 0 < beta_start <= beta_end, not {beta_start} and {beta_end}"
            )
        if scale * beta_end >= 1:
            raise InputError(
                f"LinearSchedule: with num_timesteps={num_timesteps} the last beta is beta_end * "
                f"1000 / num_timesteps = {scale * beta_end:g} and must stay below 1; choose "
                f"num_timesteps > {math.floor(1000 * beta_end)}, a lower beta_end or CosineSchedule"
            )
        ends = scale * beta_start, scale * beta_end
        super().__init__(_from_betas(torch.linspace(*ends, num_timesteps, dtype=torch.float64)))


class CosineSchedule(DiscreteSchedule):
    """alpha_bar(u) = cos^2((u + s)/(1 + s) pi/2) / cos^2(s/(1 + s) pi/2), u = (t+1)/T.

    Nichol & Dhariwal 2021, eq. 17; beta is capped at 0.999.
    """

    def __init__(self, num_timesteps: int = 1000, s: float = 0.008) -> None:
        _check_num_timesteps(num_timesteps)
        if not s >= 0:
            raise InputError(f"CosineSchedule: s is an offset of at least 0, not {s}")
        u = torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64)
        super().__init__(_from_path(torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2))


class SigmoidSchedule(DiscreteSchedule):
    """alpha_bar(u) falls like a sigmoid of start + u (end - start) over tau, scaled to 1..0.

    u = (t+1)/T. Jabri et al. 2022 (RIN), appendix; beta is capped at 0.999.
    """

    def __init__(
        self, num_timesteps: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0
    ) -> None:
        _check_num_timesteps(num_timesteps)
        if not (start < end and tau > 0):
            raise InputError(
                f"SigmoidSchedule: needs start < end and tau > 0, not {start}, {end} and {tau}"
            )
        u = torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64)
        fall = torch.sigmoid(-(start + u * (end - start)) / tau)
        super().__init__(_from_path((fall - fall[-1]) / (fall[0] - fall[-1])))


class ZeroTerminalSNR(DiscreteSchedule):
    """`schedule` with sqrt(alpha_bar) shifted and scaled so that the last level is pure noise.

    sqrt(alpha_bar)'_t = (sqrt(alpha_bar)_t - sqrt(alpha_bar)_{T-1}) sqrt(alpha_bar)_0 /
    (sqrt(alpha_bar)_0 - sqrt(alpha_bar)_{T-1}). Lin et al. 2023, algorithm 1. No prediction of eps
    can name x_0 at that level: such objectives refuse it.
    """

    def __init__(self, schedule: DiscreteSchedule) -> None:
        if not isinstance(schedule, DiscreteSchedule) or schedule.num_timesteps < 2:
            raise InputError(
                "ZeroTerminalSNR: rescales a discrete schedule of at least 2 timesteps "
                f"(linear, cosine, sigmoid), not {type(schedule).__name__}"
            )
        alpha = schedule.alpha_bar.sqrt()
        super().__init__(((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2)
