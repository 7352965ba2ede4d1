"""The report: one HTML page, with everything it shows inside it; the words are in report.html."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddpm_kedro.evaluation.chart import chart, short_number, strip
from ddpm_kedro.evaluation.curves import loss_figure, quick_score_figure
from ddpm_kedro.evaluation.distribution import LARGER_IS_BETTER
from ddpm_kedro.evaluation.metric_names import EXPLANATIONS, PARTS, TITLES, explanation
from ddpm_kedro.evaluation.verdict import three_digits, training_facts, verdict
from ddpm_kedro.images.grid import make_grid
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.images.rows import spread

GRID_IMAGES = 64
MOST_PREVIEWS = 6
MOST_BARS = 40


def render_report(
    samples: np.ndarray,
    train: ImageSet,
    training_log: Sequence[Mapping[str, Any]],
    previews: Mapping[int, Image.Image],
    metrics: Mapping[str, Any],
    diagnostics: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page as HTML with inline styles, pictures and charts; it loads nothing and runs no
    script. Equal data give an equal page.

    `samples` are uint8 (N, C, H, W); `train` the images the model learned from, shown beside them.
    `training_log` holds the records of the training, see the tracker, and `previews` grids of
    samples by training images seen; both may be empty. `metrics` and `diagnostics` are what the
    evaluation found; `diagnostics["model"]` is the model's spec and `diagnostics["evaluated"]` the
    samples' card and the stamp. `records` say what made the files that are shown, see `Records`.
    """
    model = diagnostics.get("model", {})
    provenance = model.get("provenance", {})
    evaluated = diagnostics.get("evaluated", {})
    drawn = evaluated.get("samples", {})
    facts = {**model, "provenance": None, **provenance, "samples": drawn}
    counts = diagnostics["class_counts"]
    scores = dict(_scores(metrics))
    return filled(
        "report.html",
        backbone=_short_type(model.get("backbone", {})),
        imported=provenance.get("imported_from"),
        train=train,
        metrics=metrics,
        verdict=metrics.get("verdict")
        or verdict(metrics, training_facts(training_log, provenance, drawn.get("weights"))),
        scores=scores,
        stamp=[
            f"{name} {value[:12] if len(value) == 64 else value}"  # of a hash its start
            for name, value in flattened(evaluated.get("stamp", {}))
        ],
        training=training_log[-1] if training_log else None,
        training_facts=_training_facts(training_log[-1]) if training_log else [],
        samples=make_grid(samples[:GRID_IMAGES]),
        real_images=make_grid(spread(train.images, GRID_IMAGES)),
        loss_chart=chart(loss_figure(training_log)),
        quick_chart=chart(quick_score_figure(training_log)),
        previews=[
            (seen, previews[seen]) for seen in spread(np.array(sorted(previews)), MOST_PREVIEWS)
        ],
        distance_charts=[
            chart(figure)
            for name, figure in diagnostics["figures"].items()
            if name.startswith("nearest_training")
        ],
        closest=[
            (pair, make_grid(np.stack([samples[pair["sample"]], train.images[pair["training"]]])))
            for pair in diagnostics["closest"]
        ],
        denoising_chart=chart(diagnostics["figures"]["denoising"]),
        class_counts=counts,
        most_of_a_class=max(1, *counts.values()) if counts else 1,
        most_bars=MOST_BARS,
        facts=list(flattened(facts)),
        made=list(map(_made, records)),
        meanings=list(_meanings(metrics, scores)),
    )


def filled(template: str, **values: Any) -> str:
    """The page that a template, named from this folder, makes of `values`."""
    # Imported here: the library's modules themselves need nothing but torch, numpy and Pillow.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters |= {"readable": readable, "short_number": short_number, "png": _png}
    pages.filters["digits"] = three_digits
    return pages.get_template(template).render(**values)


def _scores(metrics: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the scores that were measured, by name: what a standing says, and its strip."""
    for name in TITLES:
        score = {part.removeprefix("_"): metrics.get(f"{name}{part}") for part in PARTS}
        score["value"] = value = metrics.get(name)
        interval, floor = score["interval"], (score["floor"], score["floor_std"])
        if None not in (value, interval, *floor, score["z"]):
            score["samples"], score["real"] = plus_minus(value, interval), plus_minus(*floor)
            score["strip"] = strip(value, interval, *floor, name in LARGER_IS_BETTER)
            yield name, score


def _meanings(metrics: Mapping[str, Any], scores: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield every metric that the table of `scores` does not show, and what it means."""
    shown = {"verdict", *(f"{name}{part}" for name in scores for part in PARTS)}
    order = {name: place for place, name in enumerate(EXPLANATIONS)}
    for name in sorted(metrics.keys() - shown, key=lambda name: (order.get(name, 999), name)):
        try:
            yield name, explanation(name)
        except KeyError:  # of another version of this library
            yield name, ""


def _made(record: Mapping[str, Any]) -> tuple[str, str]:
    """The outputs of a record, and in a line how they were made."""
    outputs, code = record["outputs"], json.dumps(record["code"], sort_keys=True)
    contents = ", ".join(output["sha256"][:12] for output in outputs.values())
    by = f"by {', '.join(record['nodes'])} at {record['made_at'].replace('T', ' ')[:16]} UTC"
    return ", ".join(outputs), (
        f"{by}; content {contents}; code {hashlib.sha256(code.encode()).hexdigest()[:12]}"
    )


def _training_facts(record: Mapping[str, Any]) -> list[str]:
    """What the last record of a training log says of its end, where it says it."""
    facts = []
    if record.get("loss") is not None:
        facts.append(f"loss {readable(record['loss'])}")
    if record.get("images_per_second"):
        facts.append(f"{readable(float(record['images_per_second']))} images a second")
    if record.get("elapsed_seconds"):
        facts.append(f"{record['elapsed_seconds'] / 60:.1f} minutes")
    return facts


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested mappings as (`dotted.key`, text), in their order.

    A mapping with a `type` (an option) is one leaf: `DDIM(num_steps=50)`.
    """
    for key, value in tree.items():
        if isinstance(value, Mapping) and "type" not in value:
            yield from flattened(value, f"{prefix}{key}.")
        elif value is not None and value not in ((), []):
            yield f"{prefix}{key}", readable(value)


def readable(value: Any) -> str:
    """A value as a table shows it: 4 significant digits, thousands apart, yes and no."""
    if isinstance(value, Mapping):
        return _in_python(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(readable, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "not defined" if value is None else str(value)


def plus_minus(value: float, spread: float) -> str:
    """A value and its spread with the decimals that the spread's first two digits have."""
    decimals = max(0, 1 - math.floor(math.log10(spread))) if spread > 0 else 3
    return f"{value:,.{decimals}f} \u00b1 {spread:,.{decimals}f}"


def _in_python(value: Any) -> str:
    """A value as Python would write it, options as calls."""
    if isinstance(value, Mapping):
        arguments = ", ".join(f"{k}={_in_python(v)}" for k, v in value.items() if k != "type")
        return f"{_short_type(value)}({arguments})" if "type" in value else f"{{{arguments}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_in_python, value))}]"
    return str(value)


def _short_type(option: Mapping[str, Any]) -> str:
    return str(option.get("type", "")).rpartition(".")[2]


def _png(image: Image.Image) -> str:
    """The picture as an address that holds it."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
