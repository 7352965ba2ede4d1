"""Curves as plain data: Plotly's figure format, written and drawn without Plotly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ddpm_kedro.evaluation.denoising_loss import DenoisingLoss
from ddpm_kedro.images.rows import spread

Figure = dict[str, Any]

MOST_POINTS = 400  # of one curve: more than a screen can tell apart


def figure(
    title: str,
    x_title: str,
    y_title: str,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    log_y: bool = False,
    faint: Iterable[str] = (),
) -> Figure:
    """A figure with one line for each of `curves`, name -> (x (n,), y (n,)).

    Points that are not finite (or not positive on a logarithmic axis) are left out, and of more
    than `MOST_POINTS` that many are kept, evenly. Names in `faint` are drawn thin, behind the
    others.
    """
    faint = set(faint)
    traces = []
    for name, (x, y) in curves.items():
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not log_y)))
        shown = spread(shown, MOST_POINTS)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": x[shown].tolist(),
                "y": y[shown].tolist(),
                "opacity": 0.35 if name in faint else 1.0,
            }
        )
    return {
        "data": traces,
        "layout": {
            "title": {"text": title},
            "xaxis": {"title": {"text": x_title}},
            "yaxis": {"title": {"text": y_title}, "type": "log" if log_y else "linear"},
        },
    }


def loss_figure(records: Iterable[Mapping[str, Any]]) -> Figure:
    """Training and held-out loss against training images seen, from a training log.

    The training loss is drawn as logged, and smoothed: an exponential mean over images seen, with
    a half-life of 1% of the whole and its start corrected.
    """
    records = list(records)
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    images_seen, loss = column(records, "loss")
    if len(loss):
        curves["each record"] = images_seen, loss
        halflife = max(0.01 * (images_seen[-1] - images_seen[0]), 1.0)
        curves["training loss"] = images_seen, _smoothed(images_seen, loss, halflife)
    images_seen, loss = column(records, "held_out_loss")
    if len(loss):
        curves["held-out loss"] = images_seen, loss
    titles = "Loss while training", "training images seen", "loss"
    return figure(*titles, curves, log_y=True, faint=["each record"])


def quick_score_figure(records: Iterable[Mapping[str, Any]]) -> Figure:
    """The score of a few samples against training images seen, from a training log."""
    images_seen, score = column(records, "quick_score")
    curves = {"quick score": (images_seen, score)} if len(score) else {}
    titles = "Score while training", "training images seen", "MIND, few samples"
    return figure(*titles, curves, log_y=True)


def figure_of_logs(
    title: str, logs: Mapping[str, Iterable[Mapping[str, Any]]], key: str, against: str
) -> Figure:
    """`key` of several training logs by name, the loss smoothed, `against` "images_seen" or
    "elapsed_seconds", which is drawn in minutes."""
    curves = {}
    for name, records in logs.items():
        x, y = column(records, key, against)
        if key == "loss" and len(x):
            y = _smoothed(x, y, max(0.01 * (x[-1] - x[0]), 1e-9))
        curves[name] = (x / 60 if against == "elapsed_seconds" else x), y
    x_title = "minutes" if against == "elapsed_seconds" else "training images seen"
    return figure(title, x_title, key.replace("_", " "), curves, log_y=True)


def denoising_figure(losses: Mapping[str, DenoisingLoss]) -> Figure:
    """Root mean square error of the estimate of x_0, in grey levels, against the noise level.

    The level is 10 log10(sigma^2 / alpha^2) in dB: 0 where noise and image weigh the same.
    """
    return figure(
        "Denoising error by noise level",
        "noise to signal, dB",
        "error, grey levels (0-255)",
        {
            name: (-loss.log_snr * 10 / np.log(10), np.sqrt(loss.x0) * 127.5)
            for name, loss in losses.items()
        },
    )


def distance_figure(
    distances: Mapping[str, np.ndarray], x_title: str = "distance, grey levels (0-255)"
) -> Figure:
    """Share of images (%) whose nearest training image is within a distance, for each set."""
    return figure(
        "Distance to the nearest training image",
        x_title,
        "images within that distance, %",
        {
            name: (np.sort(values), 100 * np.arange(1, len(values) + 1) / len(values))
            for name, values in distances.items()
        },
    )


def column(
    records: Iterable[Mapping[str, Any]], key: str, against: str = "images_seen"
) -> tuple[np.ndarray, np.ndarray]:
    """The values of `against` and `key` (both (n,)) of the records that have finite ones."""
    pairs = [(r[against], r[key]) for r in records if None not in (r.get(against), r.get(key))]
    columns = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    columns = columns[np.isfinite(columns).all(axis=1)]
    return columns[:, 0], columns[:, 1]


def _smoothed(x: np.ndarray, y: np.ndarray, halflife: float) -> np.ndarray:
    """Exponential mean over x: a point weighs 2^(-age / halflife)."""
    total, weight, last = 0.0, 0.0, x[0]
    means = np.empty_like(y)
    for index, (place, value) in enumerate(zip(x, y, strict=True)):
        decay = 0.5 ** ((place - last) / halflife)
        total, weight, last = decay * total + value, decay * weight + 1.0, place
        means[index] = total / weight
    return means
