"""Puts the figures of ``benchmarks/results`` into the sections of ``docs/performance.md``.

python benchmarks/page.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from busy import table
from measurement import RESULTS, markdown_table

from ddpm_kedro.files import atomic_write

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def replace_section(page: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name: begin -->`` and ``<!-- name: end -->``.

    A page that is missing, or has no such marks, is left alone.
    """
    if not page.exists():
        return
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if found and closed:
        with atomic_write(page) as file:
            file.write(f"{before}{begin}\n\n{text}\n\n{end}{after}".encode())


def where(result: Mapping[str, Any]) -> str:
    """One line: date, machine, versions."""
    machine, versions = result["machine"], result["versions"]
    device = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
    peers = ", ".join(
        f"{name} {versions[name]}"
        for name in ("torch", "diffusers", "denoising-diffusion-pytorch")
        if name in versions
    )
    return (
        f"{result['date']}, {device}, {machine['torch_threads']} thread(s), "
        f"{machine['memory_gib']:.0f} GiB; {peers}; load average before: "
        f"{machine['load_average_before']}."
    )


def training_steps(result: Mapping[str, Any]) -> str:
    """A table for each network and batch size, the fastest first."""
    blocks = [where(result)]
    for part in result["results"]:
        rows = sorted(part["contenders"], key=_per_second, reverse=True)
        reference = next(
            (row for row in rows if row["name"] == "diffusers"),
            next((row for row in rows if row["name"] == "homework loop"), rows[-1]),
        )
        turns = min(row["turns"] for row in rows)
        products = ", ".join(
            f"{row['precision']} {row['flop_per_second']['median'] / 1e9:,.0f}"
            for row in part["matrix_products"]
        )
        blocks.append(
            f"**{part['network']}, batch {part['batch_size']}** "
            f"({part['parameters'] / 1e6:.2f}M parameters, "
            f"{part['training_gflop_per_image']:.1f} GFLOP an image; {turns} turns each; "
            f"products in GFLOP/s: {products})"
        )
        header = [
            "contender", "precision", "setting", "images/s (quartiles)",
            f"times {reference['name']}", "share of the bf16 product", "peak memory, GB",
        ]  # fmt: skip
        blocks.append(
            markdown_table(
                header,
                [
                    [
                        row["name"],
                        row["precision"],
                        row["setting"],
                        _median_and_quartiles(row["images_per_second"]),
                        f"{_per_second(row) / _per_second(reference):.2f}",
                        f"{row['share_of_bf16_product']:.0%}",
                        row["peak_memory_bytes"] and row["peak_memory_bytes"] / 1e9,
                    ]
                    for row in rows
                ],
            )
        )
    return "\n\n".join(blocks)


def sampling(result: Mapping[str, Any]) -> str:
    """One table, the fastest first."""
    rows = sorted(result["contenders"], key=_per_second, reverse=True)
    reference = next((row for row in rows if row["name"] == "diffusers"), rows[-1])
    return "\n\n".join(
        [
            where(result),
            f"{result['network']}, {result['sampler']} in {result['num_steps']} steps, "
            f"{result['samples_per_turn']} images a turn, {rows[0]['turns']} turns each:",
            markdown_table(
                ["contender", "precision", "setting", "images/s (quartiles)",
                 f"times {reference['name']}"],
                [
                    [
                        row["name"],
                        row["precision"],
                        row["setting"],
                        _median_and_quartiles(row["images_per_second"]),
                        f"{_per_second(row) / _per_second(reference):.2f}",
                    ]
                    for row in rows
                ],
            ),
        ]
    )  # fmt: skip


def overhead(result: Mapping[str, Any]) -> str:
    """What the engine's loop adds to a step."""
    pieces = result["pieces"]
    return "\n\n".join(
        [
            where(result),
            "A record after every step, the worst case (the presets take 16 steps or more):",
            markdown_table(
                ["training", "hook", "steps", "bare step, ms", "difference, ms", "share"],
                [
                    [
                        f"{row['network']}, batch {row['batch_size']}",
                        row["sink"],
                        row["steps"],
                        1000 * row["wall"]["bare_seconds"],
                        1000 * row["wall"]["median_difference_seconds"],
                        f"{row['overhead']:+.2%}",
                    ]
                    for row in result["results"]
                ],
            ),
            f"By themselves, a record takes {1e6 * pieces['seconds_per_record']:.0f} us and a step "
            f"of the progress bar {1e6 * pieces['seconds_per_progress_update']:.0f} us.",
        ]
    )  # fmt: skip


def busy(result: Mapping[str, Any]) -> str:
    """Alone and beside a process that spins, in images a second."""
    return "\n\n".join([where(result), table(result["results"])])


def _per_second(row: Mapping[str, Any]) -> float:
    return row["images_per_second"]["median"]


def _median_and_quartiles(rate: Mapping[str, float]) -> str:
    return "{median:.3g} ({lower_quartile:.3g} to {upper_quartile:.3g})".format(**rate)


SECTIONS: Sequence[tuple[str, str, Callable[[Mapping[str, Any]], str]]] = (
    ("training step", "training_step_cpu", training_steps),
    ("sampling", "sampling_cpu", sampling),
    ("overhead", "overhead_cpu", overhead),
    ("busy", "busy", busy),
)


def main() -> None:
    """Fill in every section whose results are there."""
    for section, name, render in SECTIONS:
        path = RESULTS / f"{name}.json"
        if path.exists():
            replace_section(PAGE, section, render(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
