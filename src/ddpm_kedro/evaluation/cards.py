"""Cards: what says of samples, metrics and a training log which model they are of.

A card is written after what it describes, so that one left behind by a killed run fits nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import ddpm_kedro
from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.distribution import SCORES_VERSION
from ddpm_kedro.evaluation.features import FeatureExtractor
from ddpm_kedro.evaluation.sets import ComparedSets
from ddpm_kedro.images.imageset import ImageSet

IMPORTED = "imported"  # the status of a model that came without a training log
DRAW_AGAIN = "run `kedro run --pipelines sampling,evaluation` with the same --env and --params"
JUDGE_AGAIN = "run `kedro run --pipelines evaluation` with the same --env and --params"


def samples_card(samples: np.ndarray, model: Model, **drawn: Any) -> dict[str, Any]:
    """Who made the samples, uint8 (N, C, H, W), and what they are; `drawn` says how (seed, sampler,
    ...), as plain values."""
    return {**_identity(model), "content_hash": _hash_of_array(samples), **drawn}


def check_samples(
    card: Mapping[str, Any], samples: np.ndarray, model: Model, train: ImageSet
) -> None:
    """Refuse to judge what was not made by this model, or a model against images not its own:
    InputError where the samples were altered since, or come from another model or other weights; or
    where the model knows the images that it was trained on and they are not `train`."""
    identity = _identity(model)
    if card.get("content_hash") != _hash_of_array(samples):
        raise InputError(f"the samples are not those of their card: {DRAW_AGAIN}")
    if card.get("model") != identity["model"]:
        raise InputError(f"the samples were drawn by another model than this one: {DRAW_AGAIN}")
    if card.get("weights") != identity["weights"]:
        raise InputError(
            f"the samples were drawn with the weights {card.get('weights')}, not "
            f"{identity['weights']} (sampling.weights): {DRAW_AGAIN}"
        )
    trained_on = model.spec.provenance.get("images")
    if trained_on is not None and trained_on != train.content_hash:
        raise InputError(
            "the model was trained on other images than train_images: run `kedro run --pipelines "
            "data_preparation,evaluation` with the --params of its training, or `kedro run` to "
            "train on these"
        )


def scored_card(extractor: FeatureExtractor, sets: ComparedSets) -> dict[str, Any]:
    """By what scores were made, and their `stamp`, 12 hexadecimal digits: they compare with those
    of the same stamp, and with no others."""
    return {
        "stamp": sets.stamp(extractor.identity),
        "features": extractor.identity,
        "n": len(sets.reference_rows),
        "reference": sets.reference_name,
        "reference_hash": sets.reference_hash,
        "scores_version": SCORES_VERSION,
    }


def evaluation_card(
    card: Mapping[str, Any],
    metrics: Mapping[str, Any],
    train: ImageSet,
    scored: Mapping[str, Any],
) -> dict[str, Any]:
    """What an evaluation is of: the samples' card, the training images and the metrics found; and
    its full stamp, what the scores are made by (`scored_card`) and what the samples were."""
    drawn = ("model", "weights", "sampler", "guidance", "label", "precision", "seed")
    return {
        "samples": dict(card),
        "train_images": train.content_hash,
        "metrics": hash_of_json(metrics),
        "stamp": {
            **scored,
            **{name: card.get(name) for name in drawn},
            "steps": (card.get("sampler") or {}).get("num_steps"),
            "versions": {"ddpm_kedro": ddpm_kedro.__version__, "torch": str(torch.__version__)},
        },
    }


def check_evaluation(
    evaluated: Mapping[str, Any],
    samples: np.ndarray,
    metrics: Mapping[str, Any],
    train: ImageSet,
) -> None:
    """Refuse to report an evaluation beside samples, metrics or images that it is not of:
    InputError where one of them is another by now, or the evaluation does not say what it is of, or
    says it in the way of an earlier version."""
    if evaluated and "stamp" not in evaluated:
        raise InputError(
            f"metrics and diagnostics are of an earlier version, with other scores: {JUDGE_AGAIN}"
        )
    if (
        evaluated.get("samples", {}).get("content_hash") != _hash_of_array(samples)
        or evaluated.get("train_images") != train.content_hash
        or evaluated.get("metrics") != hash_of_json(metrics)
    ):
        raise InputError(
            "metrics and diagnostics are not one evaluation of these samples and training images: "
            + JUDGE_AGAIN
        )


def has_training_log(training_card: Mapping[str, Any] | None, model: str | None) -> bool:
    """Whether the training log and the previews are those of the model that was judged, given by
    the content hash of its file, and may be shown beside it. `training_card` was written with them,
    None where there is none. InputError where they are another model's."""
    if training_card is None:
        return False
    if training_card.get("model") != model:
        raise InputError(
            "the training log and previews are of another model than the metrics: run `kedro run "
            "--pipelines training,sampling,evaluation` with the same --env and --params, or remove "
            "training_card.json to report a model from elsewhere without a log"
        )
    return training_card.get("status") != IMPORTED


def _identity(model: Model) -> dict[str, Any]:
    return dict(model.identity or {"model": None, "weights": None})


def _hash_of_array(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def hash_of_json(data: Mapping[str, Any]) -> str:
    """By what an evaluation knows the metrics that it found, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
