"""What a training step asks of CUDA, counted on a GPU that computes nothing: no time is measured.

    python tests/null_gpu/fake_cuda.py benchmarks/counted.py [--networks ddpm homework]

For each network: kernels launched by a step as it stands, replayed as a graph, and compiled; bytes
that its operators outside of convolutions and products read and write; the host's time a step
(launches cost nothing here, so a real one is longer); peak memory by torch's allocator. A team's
step is counted on one of two GPUs, without what NCCL adds. Results go to results/counted.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import fake_cuda
import torch
import torch.distributed
import trainers
from measurement import machine, markdown_table, save_results, versions
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddpm_kedro.diffusion.precision import choose_precision
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.step.training_step import LossModule, TrainingStep
from ddpm_kedro.training.workers.team import Team

PRODUCTS = ("convolution", "addmm", "bmm", "mm.", "attention")
DEVICE = torch.device("cuda", 0)
TIMED_STEPS = 5


class Traffic(TorchDispatchMode):
    """Bytes of the tensors that each operator reads and writes; views and products left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        is_view = any(r.alias_info and not r.alias_info.is_write for r in operator._schema.returns)
        if not is_view and not any(name in str(operator) for name in PRODUCTS):
            tensors = [x for x in tree_leaves((args, kwargs, result)) if torch.is_tensor(x)]
            self.bytes += sum(x.nbytes for x in tensors if x.device.type == "cuda")
        return result


@dataclass(frozen=True)
class Kind:
    """A way of taking a step.

    Attributes:
        name: of the row.
        build: makes the step of a network at a batch size.
        is_graph: whether the fourth step is captured and later ones replay it.
    """

    name: str
    build: Callable[[str, int], Callable[[], None]]
    is_graph: bool = False


def _engine(network: str, batch_size: int, **options: Any) -> Callable[[], None]:
    take, _ = trainers.engine(network, batch_size, DEVICE, precision="bf16", **options)
    return take


def _team_step(network: str, batch_size: int) -> Callable[[], None]:
    """One of two workers' steps: half of the batch through DDP, whose buckets go nowhere."""
    settings = trainers.settings_for(network, batch_size, precision="bf16", compile="off")
    state = LearningState(trainers.new_model(network, DEVICE), settings)
    loss = nn.parallel.DistributedDataParallel(
        LossModule(state.model.denoiser), device_ids=[DEVICE], broadcast_buffers=False
    )
    loss.register_comm_hook(None, _as_if_summed)
    step = TrainingStep(state, loss, choose_precision("bf16", DEVICE), Team(0, 2))
    step.rehearse()
    images = torch.zeros((batch_size // 2, 3, 32, 32), dtype=torch.uint8, device=DEVICE)

    def take() -> None:
        state.set_rates()
        step(images, None)
        state.advance()

    for _ in range(10):  # DDP times these, and one in a hundred later, by waiting
        take()
    return take


def _as_if_summed(_, bucket):  # type: ignore[no-untyped-def] - DDP refuses annotations as text
    done = torch.futures.Future(devices=[DEVICE])
    done.set_result(bucket.buffer())
    return done


KINDS = (
    Kind("as it stands", partial(_engine, compile="off")),
    Kind("one graph", partial(_engine, compile="auto", num_steps=100), is_graph=True),
    Kind("compiled, one graph", partial(_engine, compile="on"), is_graph=True),
    Kind("of a team of two", _team_step),
)


def count(kind: Kind, network: str, batch_size: int) -> dict[str, Any]:
    """What one step takes, when it runs as it will."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    take = kind.build(network, batch_size)
    for _ in range(3):
        take()
    with fake_cuda.record() as fourth:
        take()
    with fake_cuda.record() as seen:
        take()
    started_at = time.perf_counter()
    for _ in range(TIMED_STEPS):
        take()
    host_seconds = (time.perf_counter() - started_at) / TIMED_STEPS
    traffic = Traffic()
    if not kind.is_graph:
        with traffic:
            take()
    return {
        "network": network,
        "batch_size": batch_size,
        "step": kind.name,
        "kernels": seen.kernels + (fourth.captured if kind.is_graph else 0),
        "launched_by_the_host": seen.kernels,
        "waits": len(seen.waits),
        "gigabytes_outside_products": traffic.bytes / 1e9 if traffic.bytes else None,
        "host_ms": 1000 * host_seconds,
        "peak_gigabytes": (torch.cuda.max_memory_allocated() - before) / 1e9,
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["ddpm", "homework"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--only", nargs="+", default=[kind.name for kind in KINDS])
    parser.add_argument("--name", default="counted")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.allclose = lambda *_, **__: True  # compiled draws are compared, and nothing has values
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    rows = [
        count(kind, network, options.batch_size)
        for network in options.networks
        for kind in KINDS
        if kind.name in options.only
    ]
    # The machine has no GPU: what torch is told of one here is made up.
    facts = {"machine": machine(torch.device("cpu")), "versions": versions(), "counted": rows}
    save_results(options.name, facts)
    print(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
