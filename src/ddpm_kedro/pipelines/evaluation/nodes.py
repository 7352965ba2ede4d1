"""The evaluation nodes: numbers first, then one page that a person can read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ddpm_kedro.evaluation.records import Records
from ddpm_kedro.evaluation.settings import EvaluationSettings
from ddpm_kedro.images.imageset import ImageSet

if TYPE_CHECKING:
    from ddpm_kedro.diffusion.model import Model
    from ddpm_kedro.evaluation.feature_store import FeatureStore
else:  # Kedro reads the annotations at every start, which does without torch
    Model = FeatureStore = Any


def evaluate_samples(
    samples: np.ndarray,
    samples_card: Mapping[str, Any],
    train_images: ImageSet,
    test_images: ImageSet,
    model: Model,
    training_log: Sequence[Mapping[str, Any]],
    training_card: Mapping[str, Any] | None,
    feature_store: FeatureStore,
    parameters: EvaluationSettings,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics, flat numbers, see `evaluation.metric_names`, and diagnostics, plain
    data for the report, what the model is included, and what was judged. InputError where samples,
    model, training images and training log do not belong together."""
    from ddpm_kedro.evaluation.cards import check_samples, evaluation_card, has_training_log
    from ddpm_kedro.evaluation.evaluate import evaluate
    from ddpm_kedro.evaluation.verdict import training_facts

    check_samples(samples_card, samples, model, train_images)
    if not has_training_log(training_card, samples_card["model"]):
        training_log = []
    training = training_facts(training_log, model.spec.provenance, samples_card["weights"])
    metrics, diagnostics = evaluate(
        samples, train_images, test_images, model.denoiser, parameters, feature_store, training
    )
    # An infinite argument becomes its name: the file is JSON, which has no infinity.
    spec = json.loads(json.dumps(model.spec.to_dict()), parse_constant=str)
    evaluated = evaluation_card(samples_card, metrics, train_images, diagnostics.pop("scored"))
    return metrics, {**diagnostics, "model": spec, "evaluated": evaluated}


def write_report(
    samples: np.ndarray,
    train_images: ImageSet,
    training_log: Sequence[Mapping[str, Any]],
    sample_previews: Mapping[int, Image.Image],
    training_card: Mapping[str, Any] | None,
    metrics: Mapping[str, Any],
    diagnostics: Mapping[str, Any],
    records: Records,
) -> str:
    """One self-contained HTML page on what was trained and how good it is; InputError where the
    evaluation is of other samples."""
    from ddpm_kedro.evaluation.cards import check_evaluation, has_training_log
    from ddpm_kedro.evaluation.report import render_report

    evaluated = diagnostics.get("evaluated", {})
    check_evaluation(evaluated, samples, metrics, train_images)
    if not has_training_log(training_card, evaluated["samples"]["model"]):
        training_log, sample_previews = [], {}
    found = (diagnostics, records.current())
    return render_report(samples, train_images, training_log, sample_previews, metrics, *found)
