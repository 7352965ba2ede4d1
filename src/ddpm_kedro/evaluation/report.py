"""The report: one HTML page, with everything it shows inside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddpm_kedro.evaluation.chart import draw, short_number
from ddpm_kedro.evaluation.curves import loss_figure
from ddpm_kedro.evaluation.metric_names import EXPLANATIONS, explanation
from ddpm_kedro.evaluation.report_style import STYLE
from ddpm_kedro.evaluation.scores import spread
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
    model = diagnostics.get("model", {})
    drawn = diagnostics.get("evaluated", {}).get("samples", {})
    sections = [
        _cards(metrics, training_log),
        _pictures(samples, train),
        _training(training_log, previews),
        _memorisation(samples, train, diagnostics),
        _denoising(metrics, diagnostics),
        _classes(metrics, diagnostics),
        _model_table(model, drawn),
        _metrics_table(metrics),
    ]
    name = _short_type(model.get("backbone", {}))
    channels, height, width = train.image_shape
    lead = (
        f"{name or 'A model'} {_origin(model)} {len(train):,} images of {height} x {width} pixels, "
        f"{'grey' if channels == 1 else 'colour'}; judged on {metrics['num_samples']:,} samples "
        f"and {metrics['num_held_out_images']:,} held-out images."
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Diffusion model report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>Diffusion model report</h1>\n<p class="lead">{html.escape(lead)}</p>\n'
        + "\n".join(section for section in sections if section)
        + "\n<footer>Written by ddpm_kedro from the run's own data.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def _origin(model: Mapping[str, Any]) -> str:
    imported = model.get("provenance", {}).get("imported_from")
    return f"imported from {imported} and compared with" if imported else "trained on"


def _cards(metrics: Mapping[str, Any], training_log: Sequence[Mapping[str, Any]]) -> str:
    cards = []
    ratio = metrics.get("frechet_ratio")
    if ratio is not None:
        cards.append(
            _card(
                f"{ratio:.2f}×",  # noqa: RUF001
                "distance to real images",
                f"Frechet distance over {metrics['features']}; 1 is what real images score",
                "good" if ratio <= 1.5 else "",
            )
        )
    gap = metrics["denoising_gap"]
    cards.append(
        _card(
            readable(metrics["denoising_loss_held_out"]),
            "held-out denoising loss",
            f"{readable(metrics['denoising_loss_training'])} on training images"
            + (f", a gap of {100 * gap:+.1f}%" if gap is not None else ""),
        )
    )
    suspected = metrics["memorisation_suspected"]
    cards.append(
        _card(
            f"{metrics['copies_of_training']:,}",
            "copies of training images",
            "samples lie closer to training images than held-out ones do: look at the pairs below"
            if suspected
            else "samples lie no closer to training images than held-out ones do",
            "warn" if suspected or metrics["copies_of_training"] else "good",
        )
    )
    if training_log:
        last = training_log[-1]
        seconds = last.get("elapsed_seconds")
        rate = last.get("images_per_second")
        facts = [f"loss {readable(last['loss'])}"] if last.get("loss") is not None else []
        facts += [f"{readable(float(rate))} images a second"] if rate else []
        facts += [f"{seconds / 60:.1f} minutes"] if seconds else []
        cards.append(
            _card(short_number(last["images_seen"]), "training images seen", ", ".join(facts))
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(number: str, name: str, note: str, kind: str = "") -> str:
    return (
        f'<div class="card {kind}"><b>{html.escape(number)}</b><span>{html.escape(name)}</span>'
        f"<small>{html.escape(note)}</small></div>"
    )


def _section(title: str, note: str, *parts: str) -> str:
    return (
        f'<section><h2>{html.escape(title)}</h2><p class="muted">{html.escape(note)}</p>'
        f"{''.join(parts)}</section>"
    )


def _pictures(samples: np.ndarray, train: ImageSet) -> str:
    return _section(
        "Samples beside real images",
        "The first samples, unselected, and training images spread over the whole set.",
        '<div class="pair">',
        _picture(make_grid(samples[:GRID_IMAGES]), "Samples"),
        _picture(make_grid(spread(train.images, GRID_IMAGES)), "Real images"),
        "</div>",
    )


def _training(
    training_log: Sequence[Mapping[str, Any]], previews: Mapping[int, Image.Image]
) -> str:
    if not training_log:
        return _section("Training", "There is no training log of this model.")
    shown = sorted(previews)
    if len(shown) > MOST_PREVIEWS:
        places = np.linspace(0, len(shown) - 1, MOST_PREVIEWS).round().astype(int)
        shown = [shown[place] for place in places]
    strip = "".join(
        _picture(previews[seen], f"after {short_number(seen)} images", "small") for seen in shown
    )
    return _section(
        "Training",
        "The loss as logged and smoothed, and samples drawn on the way, always from one noise.",
        draw(loss_figure(training_log)),
        f'<div class="strip" style="margin-top:16px">{strip}</div>' if strip else "",
    )


def _memorisation(samples: np.ndarray, train: ImageSet, diagnostics: Mapping[str, Any]) -> str:
    pairs = "".join(
        _picture(
            make_grid(
                np.stack([samples[pair["sample"]], train.images[pair["training"]]]), columns=2
            ),
            f"{pair['distance']:.1f} apart",
            "small",
        )
        for pair in diagnostics["closest"]
        if pair["sample"] < len(samples) and pair["training"] < len(train)
    )
    return _section(
        "New images or copies?",
        "How far samples are from their nearest training image, against how far images are that "
        "the model never saw. A model that makes new images has the two curves on one another; "
        "a curve of samples far to the left means copies, or blur.",
        draw(diagnostics["figures"]["nearest_training"]),
        '<p class="muted" style="margin-top:14px">The closest pairs: a sample on the left, '
        "its nearest training image on the right, and their distance in grey levels.</p>",
        f'<div class="strip pairs">{pairs}</div>',
    )


def _denoising(metrics: Mapping[str, Any], diagnostics: Mapping[str, Any]) -> str:
    return _section(
        "Denoising, level by level",
        f"How far the restored image is from the true one, on {metrics['denoising_images']:,} "
        "held-out and as many training images with the same noise. A held-out curve above the "
        "training curve is overfitting.",
        draw(diagnostics["figures"]["denoising"]),
    )


def _classes(metrics: Mapping[str, Any], diagnostics: Mapping[str, Any]) -> str:
    counts: Mapping[str, int] = diagnostics["class_counts"]
    if not counts:
        return ""
    largest = max(max(counts.values()), 1)
    rows = "".join(
        f"<span>{html.escape(name)}</span>"
        f'<i style="width:{100 * count / largest:.1f}%"></i><span>{count:,}</span>'
        for name, count in list(counts.items())[:MOST_BARS]
    )
    accuracy = metrics.get("nearest_label_accuracy")
    trust = (
        f" On held-out images that rule is right {100 * accuracy:.0f}% of the time."
        if accuracy is not None
        else ""
    )
    return _section(
        "Classes among the samples",
        f"{metrics['classes_seen']} of {metrics['num_classes']} classes occur, by the class of "
        f"each sample's nearest training image.{trust}"
        + (f" The first {MOST_BARS} are shown." if len(counts) > MOST_BARS else ""),
        f'<div class="bars">{rows}</div>',
    )


def _metrics_table(metrics: Mapping[str, Any]) -> str:
    order = {name: place for place, name in enumerate(EXPLANATIONS)}
    rows = "".join(
        f"<tr><th><code>{html.escape(name)}</code></th>"
        f'<td class="number">{html.escape(_cell(metrics[name]))}</td>'
        f'<td class="text">{html.escape(_meaning(name, metrics[name]))}</td></tr>'
        for name in sorted(metrics, key=lambda name: order.get(name, len(order)))
    )
    return _section(
        "All metrics",
        "As in metrics.json.",
        f'<table class="metrics">{rows}</table>',
    )


def _cell(value: Any) -> str:
    return "" if isinstance(value, str) else readable(value)


def _meaning(name: str, value: Any) -> str:
    text = explanation(name)
    return f"{value}. {text}" if isinstance(value, str) else text


def _model_table(model: Mapping[str, Any], drawn: Mapping[str, Any]) -> str:
    facts = {key: value for key, value in model.items() if key != "provenance"}
    facts |= model.get("provenance", {})
    facts |= {"samples": drawn}
    rows = "".join(
        f"<tr><th><code>{html.escape(key)}</code></th><td><code>{html.escape(value)}</code></td></tr>"
        for key, value in flattened(facts)
    )
    if not rows:
        return ""
    return _section(
        "What was trained",
        "The model's own spec and provenance, as its file carries them, and how it was sampled.",
        f"<table>{rows}</table>",
    )


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested mappings as (``dotted.key``, text), in their order.

    A mapping with a ``type`` (an option) is one leaf: ``DDIM(num_steps=50)``.
    """
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and "type" not in value:
            yield from flattened(value, f"{name}.")
        elif value is not None and value not in ((), []):
            yield name, _leaf(value)


def _leaf(value: Any) -> str:
    if isinstance(value, Mapping):
        return _argument(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(_leaf(item) for item in value)
    return readable(value)


def _argument(value: Any) -> str:
    """A value as Python would write it, options as calls."""
    if isinstance(value, Mapping):
        arguments = ", ".join(f"{k}={_argument(v)}" for k, v in value.items() if k != "type")
        return f"{_short_type(value)}({arguments})" if "type" in value else f"{{{arguments}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_argument(item) for item in value)}]"
    return str(value)


def _short_type(option: Mapping[str, Any]) -> str:
    return str(option.get("type", "")).rpartition(".")[2]


def readable(value: Any) -> str:
    """A value as a table shows it: 4 significant digits, thousands apart, yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "not defined" if value is None else str(value)


def _picture(image: Image.Image, caption: str, kind: str = "") -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    picture = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    if kind:
        return f'<figure class="{kind}">{picture}<figcaption>{text}</figcaption></figure>'
    return f"<figure><figcaption>{text}</figcaption>{picture}</figure>"
