"""Units: nodes that run, or are skipped, as one, because they are joined through memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kedro.pipeline import Pipeline

from ddpm_kedro.datasets.place import place_of
from ddpm_kedro.framework.making import dotted


def units_of(pipeline: Pipeline, catalog: Any) -> Iterator[Pipeline]:
    """The pipeline in pieces, in the order in which they run: single nodes, and nodes joined by
    datasets without a place on a disk, with all that the sorted pipeline has between them."""
    nodes = pipeline.nodes
    made_by = {name: number for number, node in enumerate(nodes) for name in node.outputs}
    last_taker = list(range(len(nodes)))  # of a node's memory outputs
    for number, node in enumerate(nodes):
        for name in node.inputs:
            if name in made_by and place_of(catalog.get(name, True)) is None:
                last_taker[made_by[name]] = number
    first = last = 0
    for number, taker in enumerate(last_taker):
        last = max(last, taker)
        if number == last:
            yield Pipeline(nodes[first : number + 1])
            first = last = number + 1


def unrecordable(unit: Pipeline, catalog: Any) -> str | None:
    """Why no record can stand for the unit: what it does beside files, or gives away in memory.
    None where all it does is in files."""
    for node in unit.nodes:
        if not node.outputs or node.confirms:
            kind = "that confirms a dataset" if node.confirms else "without outputs"
            return f"a node {kind} always does"
        module = dotted(node.func).partition(".")[0]
        if module in ("__main__", "builtins"):  # of a notebook, say
            return f"the code of {node.name} is in no module"
    for name in sorted(unit.all_outputs()):
        dataset = catalog.get(name, True)
        passes = getattr(dataset, "_EPHEMERAL", False) and name not in unit.outputs()
        if place_of(dataset) is None and not passes:
            return f"its output {name} lies in no file"
    return None
