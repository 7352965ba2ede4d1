"""Images a second of a training step: ours and the peers', in turns, in one process.

    python benchmarks/training_step.py --networks ddpm homework --batch-sizes 16

Peers are measured where they can be imported; lucidrains' package goes into a folder of its own
(``pip install --no-deps --target PEERS denoising-diffusion-pytorch accelerate ema-pytorch einops``,
then ``PYTHONPATH=PEERS``). Writes ``benchmarks/results/training_step_<device>.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import trainers
from measurement import (
    RESULTS,
    Contender,
    chosen_device,
    device_memory,
    host_memory_of,
    machine,
    markdown_table,
    matrix_products,
    peak_host_bytes,
    save_results,
    take_turns,
    versions,
    wait_for,
)

from ddpm_kedro.diffusion.cost import cost_of
from ddpm_kedro.heap import kept_heap

Build = Callable[[int], trainers.Step]


def builders(
    network: str, device: torch.device, folder: Path, with_compile: bool
) -> dict[str, tuple[dict[str, Any], Build]]:
    """Every contender of a network by name: its facts, and how to build it for a batch size."""

    def ours(precision: str, compile: str) -> Build:
        return lambda batch: trainers.engine(
            network, batch, device, precision=precision, compile=compile
        )[0]

    def script(**options: Any) -> Build:
        return lambda batch: trainers.diffusers_script(network, batch, device, **options)

    def lucidrains(amp: bool) -> Build:
        return lambda batch: trainers.lucidrains_trainer(
            network, batch, device, folder / f"lucidrains_{network}_{amp}", amp=amp
        )

    def homework(tuned: bool) -> Build:
        return lambda batch: trainers.homework_loop(network, batch, device, tuned=tuned)

    auto = trainers.choose_precision("auto", device).name
    compile = "auto" if with_compile else "off"
    table: dict[str, tuple[dict[str, Any], Build]] = {
        "ours": ({"precision": auto, "setting": "as it ships"}, ours("auto", compile)),
        "ours fp32": ({"precision": "fp32", "setting": "fp32"}, ours("fp32", compile)),
    }
    if device.type == "cuda":
        table["ours, graph only"] = (
            {"precision": auto, "setting": "CUDA graph without torch.compile"},
            _without_compilation(network, device),
        )
        table["ours, eager"] = ({"precision": auto, "setting": "eager"}, ours("auto", "off"))
    if network.startswith("ddpm") and not trainers.missing(["diffusers"]):
        table |= {
            "diffusers": (
                {"precision": "fp32", "setting": "as it ships"}, script()
            ),
            "diffusers bf16": (
                {"precision": "bf16", "setting": "as it ships, mixed_precision=bf16"},
                script(mixed_precision="bf16"),
            ),
            "diffusers fp32 tuned": (
                {"precision": "fp32", "setting": "channels-last, fused, foreach"},
                script(tuned=True),
            ),
            "diffusers bf16 tuned": (
                {"precision": "bf16", "setting": "channels-last, fused, foreach"},
                script(mixed_precision="bf16", tuned=True),
            ),
        }  # fmt: skip
        if device.type == "cuda" and with_compile:
            table["diffusers bf16 compiled"] = (
                {"precision": "bf16", "setting": "tuned and compiled"},
                script(mixed_precision="bf16", tuned=True, compile=True),
            )
    if network.startswith("ddpm") and not trainers.missing(trainers.LUCIDRAINS):
        table |= {
            "lucidrains": ({"precision": "fp32", "setting": "as it ships"}, lucidrains(False)),
            "lucidrains bf16": ({"precision": "bf16", "setting": "amp=True"}, lucidrains(True)),
        }
    table |= {
        "homework loop": ({"precision": "fp32", "setting": "as it ships"}, homework(False)),
        "homework loop bf16": (
            {"precision": "bf16", "setting": "channels-last, fused"}, homework(True)
        ),
    }  # fmt: skip
    if "diffusers bf16" in table and device.type == "cpu":
        facts, build = table["diffusers bf16"]
        table["diffusers bf16, kept heap"] = (
            {**facts, "setting": "the same, with our setting of malloc", "keeps_heap": True}, build
        )  # fmt: skip
    for name, (facts, _) in table.items():
        facts.setdefault("keeps_heap", name.startswith("ours"))
    return table


def _without_compilation(network: str, device: torch.device) -> Build:
    """Our step for a short training: captured as it is, since compiling would not be won back."""

    def build(batch: int) -> trainers.Step:
        step, _ = trainers.engine(network, batch, device, num_steps=1000)
        return step

    return build


def measure(options: argparse.Namespace, network: str, batch_size: int) -> dict[str, Any]:
    """All contenders of one network at one batch size, in turns."""
    device = chosen_device()
    steps_per_turn = options.steps_per_turn or (10 if device.type == "cuda" else 2)
    contenders: list[Contender] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        table = builders(network, device, Path(folder), options.compile)
        for name, (facts, build) in table.items():
            if options.only and name not in options.only:
                continue
            print(f"building {network} {batch_size}: {name}", flush=True)
            try:
                with device_memory(device) as peak:
                    step = build(batch_size)
                    trainers.several(step, 6 if device.type == "cuda" else options.warm_up)()
                    wait_for(device)
                    peak_bytes = peak()
            except Exception as error:  # one that cannot run here does not stop the others
                failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
                print(f"{name} failed: {failed[name]}", flush=True)
                continue
            contenders.append(
                Contender(
                    name,
                    facts,
                    trainers.several(step, steps_per_turn),
                    steps_per_turn * batch_size,
                    peak_bytes=peak_bytes,
                    # Other contenders' memory has come and gone since the last turn on a CPU; a
                    # heap that is kept has grown to its size after three steps.
                    warm_up=trainers.several(step, 3 if facts["keeps_heap"] else 1)
                    if device.type == "cpu"
                    else None,
                    surroundings=kept_heap if facts["keeps_heap"] else contextlib.nullcontext,
                )
            )
        products = matrix_products(device)
        take_turns([*contenders, *products], device, options.rounds, options.seconds)
    if device.type == "cpu" and options.memory:
        for contender in contenders:
            contender.peak_bytes = host_memory_of(
                __file__, ["--alone", contender.name, "--networks", network,
                           "--batch-sizes", str(batch_size)],
            )  # fmt: skip

    flops = cost_of(trainers.new_model(network, torch.device("cpu")).network, (3, 32, 32))
    peaks = {product.facts["precision"]: product.rate for product in products}
    rows = []
    for contender in contenders:
        row = contender.summary("images")
        done = contender.rate * flops.training_flops
        row["flop_per_second"] = done
        row["share_of_bf16_product"] = done / peaks["bf16"]
        row["share_of_product_in_its_precision"] = done / peaks[contender.facts["precision"]]
        rows.append(row)
    return {
        "network": network,
        "parameters": flops.parameters,
        "training_gflop_per_image": flops.training_flops / 1e9,
        "batch_size": batch_size,
        "steps_per_turn": steps_per_turn,
        "matrix_products": [product.summary("flop") for product in products],
        "contenders": rows,
        "failed": failed,
    }


def table_of(result: dict[str, Any]) -> str:
    """What a person reads: one line for each contender, the fastest first."""
    rows = sorted(result["contenders"], key=lambda row: -row["images_per_second"]["median"])
    return markdown_table(
        ["contender", "precision", "setting", "images/s", "quartiles", "share of the product",
         "peak memory, GB"],
        [
            [
                row["name"],
                row["precision"],
                row["setting"],
                row["images_per_second"]["median"],
                "{lower_quartile:.3g} to {upper_quartile:.3g}".format(**row["images_per_second"]),
                f"{row['share_of_product_in_its_precision']:.0%}",
                row["peak_memory_bytes"] and row["peak_memory_bytes"] / 1e9,
            ]
            for row in rows
        ],
    )  # fmt: skip


def alone(options: argparse.Namespace) -> None:
    """Two steps of one contender by itself, then the memory that the process took at most."""
    network, batch_size = options.networks[0], options.batch_sizes[0]
    with tempfile.TemporaryDirectory() as folder:
        table = builders(network, chosen_device(), Path(folder), options.compile)
        facts, build = table[options.alone]
        with kept_heap() if facts["keeps_heap"] else contextlib.nullcontext():
            trainers.several(build(batch_size), 2)()
        print(peak_host_bytes(), flush=True)


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["ddpm", "homework"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each, at most")
    parser.add_argument("--seconds", type=float, default=240, help="of rounds for each network")
    parser.add_argument("--steps-per-turn", type=int, default=None)
    parser.add_argument("--warm-up", type=int, default=2, help="steps on a CPU before the turns")
    parser.add_argument("--only", nargs="+", default=None, help="names of contenders")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--alone", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--name", default=None, help="of the results file")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    options = options_from(arguments)
    device = chosen_device()
    if options.batch_sizes is None:
        options.batch_sizes = [128, 512] if device.type == "cuda" else [16]
    if options.alone:
        alone(options)
        return
    facts = {"machine": machine(device), "versions": versions()}
    results = []
    for network in options.networks:
        for batch_size in options.batch_sizes:
            results.append(measure(options, network, batch_size))
            print(f"\n{network}, batch {batch_size}\n{table_of(results[-1])}\n", flush=True)
            name = options.name or f"training_step_{device.type}"
            save_results(name, {**facts, "results": results}, options.results)


if __name__ == "__main__":
    main()
