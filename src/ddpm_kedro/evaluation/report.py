"""The report: one HTML page, with everything it shows inside it; the words are in report.html."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddpm_kedro.evaluation.chart import chart, short_number
from ddpm_kedro.evaluation.curves import loss_figure
from ddpm_kedro.evaluation.metric_names import EXPLANATIONS, explanation
from ddpm_kedro.evaluation.rows import spread
from ddpm_kedro.images.grid import make_grid
from ddpm_kedro.images.imageset import ImageSet

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
) -> str:
    """Write the page; equal data give an equal page.

    Args:
        samples: uint8 (N, C, H, W).
        train: the images the model learned from, shown beside the samples.
        training_log: records of the training, see the tracker; may be empty.
        previews: grids of samples by training images seen; may be empty.
        metrics, diagnostics: what the evaluation found; ``diagnostics["model"]`` is the model's
            spec, ``diagnostics["evaluated"]["samples"]`` the samples' card.

    Returns:
        HTML with inline styles, pictures and charts; it loads nothing and runs no script.
    """
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
    model = diagnostics.get("model", {})
    provenance = model.get("provenance", {})
    drawn = diagnostics.get("evaluated", {}).get("samples", {})
    facts = {**model, "provenance": None, **provenance, "samples": drawn}
    counts = diagnostics["class_counts"]
    order = {name: place for place, name in enumerate(EXPLANATIONS)}
    return pages.get_template("report.html").render(
        backbone=_short_type(model.get("backbone", {})),
        imported=provenance.get("imported_from"),
        train=train,
        metrics=metrics,
        training=training_log[-1] if training_log else None,
        training_facts=_training_facts(training_log[-1]) if training_log else [],
        samples=make_grid(samples[:GRID_IMAGES]),
        real_images=make_grid(spread(train.images, GRID_IMAGES)),
        loss_chart=chart(loss_figure(training_log)),
        previews=[
            (seen, previews[seen]) for seen in spread(np.array(sorted(previews)), MOST_PREVIEWS)
        ],
        distance_chart=chart(diagnostics["figures"]["nearest_training"]),
        closest=[
            (
                pair["distance"],
                _side_by_side(samples[pair["sample"]], train.images[pair["training"]]),
            )
            for pair in diagnostics["closest"]
        ],
        denoising_chart=chart(diagnostics["figures"]["denoising"]),
        class_counts=counts,
        most_of_a_class=max(1, *counts.values()) if counts else 1,
        most_bars=MOST_BARS,
        facts=list(flattened(facts)),
        meanings=[
            (name, explanation(name))
            for name in sorted(metrics, key=lambda name: order.get(name, len(order)))
        ],
    )


def _side_by_side(*images: np.ndarray) -> Image.Image:
    return make_grid(np.stack(images), columns=len(images))


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
    """Yield the leaves of nested mappings as (``dotted.key``, text), in their order.

    A mapping with a ``type`` (an option) is one leaf: ``DDIM(num_steps=50)``.
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
