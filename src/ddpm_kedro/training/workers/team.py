"""The processes that train together, or the one that trains alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from ddpm_kedro.training.store.checkpoint import Checkpoint


@dataclass(frozen=True)
class Team:
    """This process's place among ``world_size`` ones; alone, everything here does nothing.

    Attributes:
        rank: 0 <= rank < world_size.
        world_size: processes in all.
        local_rank: number on this machine, which picks the GPU.
        host_group: process group for small agreements between hosts (gloo), None when alone.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    host_group: torch.distributed.ProcessGroup | None = None

    @property
    def is_lead(self) -> bool:
        """Whether this process writes and shows: the first one of each machine.

        Weights are the same everywhere, so each machine keeps a whole folder of its own.
        """
        return self.local_rank == 0

    def part_of(self, batch_size: int) -> slice:
        """The rows of the global batch that are this process's; parts differ by one row at most."""
        bounds = [batch_size * rank // self.world_size for rank in (self.rank, self.rank + 1)]
        return slice(*bounds)

    def sum_(self, value: Tensor) -> Tensor:
        """``value`` summed over the processes, in place, without waiting for the device."""
        if self.world_size > 1:
            torch.distributed.all_reduce(value)
        return value


class Agreement:
    """Finds the step after which all processes stop, when any of them was asked to.

    Each process says at every step whether it was asked, and the answers are added up while the
    step is computed; so the stop comes one step later, at the same step everywhere.
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self._asked: tuple[Tensor, torch.distributed.Work | None] | None = None

    def reached(self, asked: int) -> int:
        """The largest code that any process asked with one call earlier (alone: in this call).

        Args:
            asked: why to stop here: 0 for no reason.
        """
        if self._team.world_size == 1:
            return asked
        earlier = 0
        if self._asked is not None:
            answer, work = self._asked
            if work is not None:
                work.wait()
            earlier = int(answer)
        answer = torch.tensor(asked, dtype=torch.int64)
        work = torch.distributed.all_reduce(
            answer,
            op=torch.distributed.ReduceOp.MAX,
            group=self._team.host_group,
            async_op=True,
        )
        self._asked = answer, work
        return earlier


def newest_of_all(checkpoint: Checkpoint | None, team: Team) -> Checkpoint | None:
    """The newest checkpoint that any process found; all go on from the same one.

    Machines keep folders of their own, and one that joins late, or was new at the last start, may
    have an older one or none. Whoever has the newest sends it to all.

    Args:
        checkpoint: the newest that this process found.
        team: whose processes all call this.
    """
    if team.world_size == 1:
        return checkpoint
    group = team.host_group
    steps: list[int] = [0] * team.world_size
    step = -1 if checkpoint is None else checkpoint.step
    torch.distributed.all_gather_object(steps, step, group=group)
    newest = max(steps)
    if min(steps) == newest:
        return checkpoint
    source = steps.index(newest)
    box: list[Checkpoint | None] = [checkpoint if team.rank == source else None]
    torch.distributed.broadcast_object_list(box, src=source, group=group)
    return box[0]
