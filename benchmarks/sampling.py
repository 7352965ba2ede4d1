"""Images a second of sampling, DDIM in 20 steps: ours and diffusers' pipeline, in turns.

    python benchmarks/sampling.py --num-samples 16

Writes ``benchmarks/results/sampling_<device>.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trainers
from measurement import (
    RESULTS,
    Contender,
    chosen_device,
    device_memory,
    machine,
    markdown_table,
    matrix_products,
    save_results,
    take_turns,
    versions,
    wait_for,
)

from ddpm_kedro.diffusion.cost import cost_of

Draw = Callable[[int], np.ndarray]


def ours(network: str, device: torch.device, options: argparse.Namespace, **choices: Any) -> Draw:
    """``Model.sample`` to uint8 images on the host."""
    model = trainers.new_model(network, device)
    model.network.eval()

    def draw(num_samples: int) -> np.ndarray:
        return model.sample(
            num_samples,
            sampler={
                "type": "ddpm_kedro.DDIM",
                "num_steps": options.num_steps,
                "spacing": "leading",
            },
            batch_size=options.batch_size,
            **choices,
        )

    return draw


def diffusers_pipeline(
    network: str, device: torch.device, options: argparse.Namespace, dtype: torch.dtype, tuned: bool
) -> Draw:
    """``DDIMPipeline`` called batch by batch, to uint8 images on the host.

    Args:
        network: of ours, whose layout and weights theirs gets.
        device: where.
        options: number of steps, batch size.
        dtype: of its weights, as ``torch_dtype`` of ``from_pretrained`` would make them.
        tuned: channels-last weights, and TF32 for what is left in fp32.
    """
    from diffusers import DDIMPipeline, DDIMScheduler

    unet = trainers.diffusers_network(network, device).eval().to(dtype)
    if tuned:
        unet = unet.to(memory_format=torch.channels_last)
    pipeline = DDIMPipeline(unet, DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear"))
    pipeline.set_progress_bar_config(disable=True)

    def draw(num_samples: int) -> np.ndarray:
        batches = []
        for first in range(0, num_samples, options.batch_size):
            # Its arrays come in the weights' type, and NumPy has no bfloat16.
            images = pipeline(
                batch_size=min(options.batch_size, num_samples - first),
                num_inference_steps=options.num_steps,
                output_type="pt",
            ).images
            batches.append((images.float() * 255).round().to(torch.uint8).cpu().numpy())
        return np.concatenate(batches)

    return draw


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All contenders in turns, each making ``num_samples`` images a turn."""
    device, network = chosen_device(), options.network
    half = trainers.choose_precision("auto", device).name
    half = "bf16" if half == "fp32" else half
    table: dict[str, tuple[dict[str, Any], Draw]] = {
        "ours": ({"precision": "fp32", "setting": "as it ships"}, ours(network, device, options)),
        f"ours {half}": (
            {"precision": half, "setting": f"precision={half}"},
            ours(network, device, options, precision=half),
        ),
    }
    if device.type == "cuda" and options.compile:
        table[f"ours {half} compiled"] = (
            {"precision": half, "setting": f"precision={half}, compile=on"},
            ours(network, device, options, precision=half, compile="on"),
        )
    if not trainers.missing(["diffusers"]):
        for name, dtype, tuned in (
            ("diffusers", torch.float32, False),
            ("diffusers tuned", torch.float32, True),
            ("diffusers bf16", torch.bfloat16, False),
            ("diffusers bf16 tuned", torch.bfloat16, True),
        ):
            table[name] = (
                {
                    "precision": "fp32" if dtype == torch.float32 else "bf16",
                    "setting": "channels-last" if tuned else "as it ships",
                },
                diffusers_pipeline(network, device, options, dtype, tuned),
            )
    contenders = []
    failed: dict[str, str] = {}
    for name, (facts, draw) in list(table.items()):
        print(f"warming up {name}", flush=True)
        try:
            with device_memory(device) as peak:
                draw(options.batch_size)
                wait_for(device)
                peak_bytes = peak()
        except Exception as error:  # one that cannot run here does not stop the others
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            print(f"{name} failed: {failed[name]}", flush=True)
            del table[name]
            continue
        contenders.append(
            Contender(
                name,
                facts,
                partial(draw, options.num_samples),
                options.num_samples,
                peak_bytes=peak_bytes,
            )
        )
    products = matrix_products(device)
    take_turns([*contenders, *products], device, options.rounds, options.seconds)

    cost = cost_of(trainers.new_model(network, torch.device("cpu")).network, (3, 32, 32))
    peaks = {product.facts["precision"]: product.rate for product in products}
    rows = []
    for contender in contenders:
        row = contender.summary("images")
        done = contender.rate * cost.forward_flops * options.num_steps
        row["share_of_product_in_its_precision"] = done / peaks[contender.facts["precision"]]
        rows.append(row)
    results: dict[str, Any] = {
        "network": network,
        "sampler": "DDIM",
        "num_steps": options.num_steps,
        "batch_size": options.batch_size,
        "samples_per_turn": options.num_samples,
        "matrix_products": [product.summary("flop") for product in products],
        "contenders": rows,
        "failed": failed,
    }
    if options.whole:
        results["whole"] = _whole_run(table, options)
    return results


def _whole_run(table: dict[str, tuple[dict[str, Any], Draw]], options: argparse.Namespace) -> Any:
    """How long ``whole`` images take with the fastest of our settings."""
    name = [name for name in table if name.startswith("ours")][-1]
    started_at = time.perf_counter()
    table[name][1](options.whole)
    return {
        "name": name,
        "num_samples": options.whole,
        "seconds": time.perf_counter() - started_at,
    }


def table_of(result: dict[str, Any]) -> str:
    """One line for each contender, the fastest first."""
    rows = sorted(result["contenders"], key=lambda row: -row["images_per_second"]["median"])
    return markdown_table(
        ["contender", "precision", "setting", "images/s", "range", "share of the product"],
        [
            [
                row["name"],
                row["precision"],
                row["setting"],
                row["images_per_second"]["median"],
                "{min:.3g} to {max:.3g}".format(**row["images_per_second"]),
                f"{row['share_of_product_in_its_precision']:.0%}",
            ]
            for row in rows
        ],
    )


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    on_gpu = chosen_device().type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="ddpm", choices=list(trainers.NETWORKS))
    parser.add_argument("--num-steps", type=int, default=20)
    parser.add_argument("--num-samples", type=int, default=1024 if on_gpu else 16)
    parser.add_argument("--batch-size", type=int, default=512 if on_gpu else 16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--whole", type=int, default=0, help="time so many images once, at the end")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    options = options_from(arguments)
    device = chosen_device()
    facts = {"machine": machine(device), "versions": versions()}
    result = measure(options)
    print(f"\n{table_of(result)}\n", flush=True)
    save_results(f"sampling_{device.type}", {**facts, **result}, options.results)


if __name__ == "__main__":
    main()
