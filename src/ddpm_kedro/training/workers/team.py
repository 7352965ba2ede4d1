"""The processes that train together, or the one that trains alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from ddpm_kedro.training.store.checkpoint import Checkpoint


@dataclass(frozen=True)
class Team:
    """This process's place among `world_size` ones; alone, everything here does nothing."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on this machine, which picks the GPU
    host_group: torch.distributed.ProcessGroup | None = None  # gloo, for small agreements

    @property
    def is_lead(self) -> bool:
        """Whether this process writes and shows: the first one of each machine, as each of them
        keeps a whole folder."""
        return self.local_rank == 0

    def part_of(self, batch_size: int) -> slice:
        """The rows of the global batch that are this process's; parts differ by one row at most."""
        return slice(*(batch_size * rank // self.world_size for rank in (self.rank, self.rank + 1)))

    def sum_(self, value: Tensor) -> Tensor:
        """`value` summed over the processes, in place, without waiting for the device."""
        if self.world_size > 1:
            torch.distributed.all_reduce(value)
        return value


class Agreement:
    """Finds the step after which all processes stop, when any of them was asked to.

    Each process says at every step whether it was asked, and the answers meet while the next step
    is computed; so the stop comes one step later, at the same step everywhere.
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self._asked = torch.zeros(2, dtype=torch.int64)
        self._work: torch.distributed.Work | None = None

    def reached(self, signum: int, time_is_up: bool) -> tuple[int, bool]:
        """The largest of what the processes said one call earlier (alone: in this call): the number
        of a signal that asked to stop, else 0, and whether the time allowed has passed."""
        if self._team.world_size == 1:
            return signum, time_is_up
        if self._work is not None:
            self._work.wait()
        earlier = self._asked.tolist()
        self._asked = torch.tensor([signum, time_is_up], dtype=torch.int64)
        most, group = torch.distributed.ReduceOp.MAX, self._team.host_group
        self._work = torch.distributed.all_reduce(self._asked, most, group, async_op=True)
        return earlier[0], bool(earlier[1])


def newest_of_all(checkpoint: Checkpoint | None, team: Team) -> Checkpoint | None:
    """The newest of the checkpoints that the processes found; all go on from the same one.

    A machine that joins late, or was new at the last start, may have an older one or none. Whoever
    has the newest sends it to all; all call this.
    """
    if team.world_size == 1:
        return checkpoint
    steps = [0] * team.world_size
    step = -1 if checkpoint is None else checkpoint.step
    torch.distributed.all_gather_object(steps, step, group=team.host_group)
    if min(steps) == max(steps):
        return checkpoint
    source = steps.index(max(steps))
    box = [checkpoint if team.rank == source else None]
    torch.distributed.broadcast_object_list(box, src=source, group=team.host_group)
    return box[0]
