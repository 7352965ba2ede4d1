"""Units: what is run, or skipped, as one, since parts of it are joined through memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kedro.io.core import is_parameter
from kedro.pipeline import Pipeline

from ddpm_kedro.datasets.place import place_of


def units_of(pipeline: Pipeline, catalog: Any) -> Iterator[Pipeline]:
    """The pipeline in pieces, in the order in which they run: single nodes, and nodes joined by
    datasets without a place on a disk, with all that the sorted pipeline has between them."""
    nodes = pipeline.nodes
    made_at = {name: number for number, node in enumerate(nodes) for name in node.outputs}
    joined_to = list(range(len(nodes)))  # node number -> the last that takes its memory
    for number, node in enumerate(nodes):
        for name in node.inputs:
            if name in made_at and not has_place(name, catalog):
                joined_to[made_at[name]] = number
    first, last = 0, -1
    for number, until in enumerate(joined_to):
        last = max(last, until)
        if number == last:
            yield Pipeline(nodes[first : number + 1])
            first = number + 1


def has_place(name: str, catalog: Any) -> bool:
    """Whether a dataset outlives the process in a place that can be looked at."""
    return place_of(catalog.get(name, fallback_to_runtime_pattern=True)) is not None


def unlasting(unit: Pipeline, catalog: Any) -> str | None:
    """Why no record could speak for the unit: what it does besides files, or gives to nobody in it
    and not to a disk. None where files are all that it makes."""
    for node in unit.nodes:
        if not node.outputs:
            return f"{node.name} has no output"
        if node.confirms:
            return f"{node.name} confirms {', '.join(node.confirms)}"
    for name in sorted(unit.all_outputs()):
        dataset = catalog.get(name, fallback_to_runtime_pattern=True)
        passes = getattr(dataset, "_EPHEMERAL", False) and name not in unit.outputs()
        if place_of(dataset) is None and not passes:
            return f"its output {name} lies in no file"
    return None
