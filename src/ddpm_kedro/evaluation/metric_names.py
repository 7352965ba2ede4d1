"""What every metric means, in one line each, in the order in which a report shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ddpm_kedro.evaluation.distribution import LARGER_IS_BETTER

SCORES = {
    "mind": (
        "MIND, Monge Inception Distance: how far apart samples and reference are along 1,000 "
        "directions of their features. Smaller is better; compare only at equal n."
    ),
    "kid": (
        "KID, Kernel Inception Distance: distance of samples and reference by a kernel of their "
        "features, around 0 for real images and sometimes below. Smaller is better."
    ),
    "frechet": (
        "Frechet distance (FID's formula) of samples and reference on the 64 leading components "
        "of their features, carried on to endless images; with fewer than 1,000 it is the closed "
        "form. Smaller is better."
    ),
    "coverage": "Share of the reference that has a sample in its neighbourhood. Larger is better.",
    "recall": (
        "Share of the reference that lies in the neighbourhood of a sample, by the samples' own "
        "distances: how much of the variety is there. Larger is better."
    ),
    "pixels_frechet": (
        "Frechet distance on 20 principal components of the pixels: sees colours, mirrors and "
        "shifts, which a network's features may miss, and little detail."
    ),
}
# How a sentence calls them
TITLES = {
    "mind": "MIND",
    "kid": "KID",
    "frechet": "the Frechet distance",
    "coverage": "coverage",
    "recall": "recall",
    "pixels_frechet": "the Frechet distance of pixels",
}
# Of each score, behind its name
PARTS = {
    "_verdict": (
        "{title} in a word: indistinguishable from real images (at most 2 deviations), close (at "
        "most 10), far, better than real images (below -4: copies?); of fewer than 500 images only "
        "far or not distinguishable."
    ),
    "_z": "Deviations of {title} from the floor, positive where it is worse than real images: up "
    "to 2 is chance.",
    "_ratio": "What the samples score, divided by the floor, at this n: 1 is as good as real.",
    "_interval": "Half the width of the 95% interval around {title}.",
    "_floor": "What as many real images score against the same reference, and a perfect model.",
    "_floor_std": "How far chance takes a perfect model from there: one standard deviation.",
}


def _of_scores() -> dict[str, str]:
    texts = {}
    for name, meaning in SCORES.items():
        parts = {key: text.format(title=TITLES[name]) for key, text in PARTS.items()}
        if name in ("kid", *LARGER_IS_BETTER):  # which may be 0, or better than the floor
            del parts["_ratio"]
        if name == "kid":
            parts["_std_error"] = "Standard error of KID over fresh samples, the reference given."
        if name.endswith("frechet"):
            parts["_at_n"] = "The plain distance, as usual elsewhere; it shrinks as n grows."
            parts["_closed_form"] = "It, less what chance adds to it for Gaussian features."
        texts[name] = meaning
        texts |= {f"{name}{key}": text[0].upper() + text[1:] for key, text in parts.items()}
    return texts


EXPLANATIONS: dict[str, str] = {
    "verdict": "All of it in two sentences.",
    **_of_scores(),
    "memorisation_suspected": (
        "Whether more samples are near copies of training images than chance allows (1 in 1,000), "
        "in features or in pixels."
    ),
    **{
        f"{prefix}near_copies{suffix}": text
        for prefix, space in (("", ""), ("pixels_", ", by their pixels, mirrored ones included"))
        for suffix, text in (
            (
                "",
                "Samples whose nearest training image is nearer, compared with the tenth, than for "
                f"99% of held-out images{space}.",
            ),
            ("_limit", f"What new images exceed by chance once in 1,000 times{space}."),
        )
    },
    "copies_of_training": "Samples that equal a training image byte for byte.",
    "mirrored_copies_of_training": "Other samples that equal the mirror image of one.",
    "copies_in_held_out": "Held-out images that equal a training image byte for byte.",
    "duplicate_samples": "Samples that equal an earlier sample byte for byte.",
    "features": "What the images were turned into before they were compared.",
    "reference": "What the samples were compared with, as many as samples were compared.",
    "stamp": (
        "Scores compare only where this is equal: it stands for the features, n, the reference and "
        "the scores' version."
    ),
    "denoising_loss_held_out": (
        "Training loss on images the model never saw, at fixed noise levels and fixed noise: "
        "smaller is better for the same objective."
    ),
    "denoising_loss_training": "The same on training images, with the same noise.",
    "denoising_gap": (
        "How much larger the held-out loss is than the training loss, as a fraction: 0 is no "
        "overfitting."
    ),
    "denoising_loss_held_out_low_noise": "Its part from the third of levels with the least noise.",
    "denoising_loss_held_out_medium_noise": "Its part from the middle third.",
    "denoising_loss_held_out_high_noise": "Its part from the third with the most noise.",
    "denoising_eps_loss_held_out": (
        "Held-out error of the predicted noise, the loss of the DDPM paper: compares models with "
        "different objectives on one noise schedule."
    ),
    "denoising_eps_loss_held_out_low_noise": "Its part from the levels with the least noise.",
    "denoising_eps_loss_held_out_medium_noise": "Its part from the middle third.",
    "denoising_eps_loss_held_out_high_noise": "Its part from the levels with the most noise.",
    "memorisation_excess": (
        "Largest surplus of samples over held-out images within any distance of a training image: "
        "0 none, 1 every sample is closer (one-sided Kolmogorov-Smirnov). Blur raises it too."
    ),
    **{
        f"nearest_training_{name}_p{percentile:02d}": (
            f"{percentile}% of the {text} lie within this distance of a training image "
            "or of its mirror image (root mean square difference in grey levels, 0-255)."
        )
        for name, text in (("samples", "samples"), ("held_out", "held-out images"))
        for percentile in (1, 5, 50, 95)
    },
    "classes_seen": (
        "Classes that occur among the samples, by their nearest training image (in features, where "
        "these are a network's)."
    ),
    "num_classes": "Classes of the training images.",
    "nearest_label_accuracy": (
        "How often the nearest training image has the right class for held-out images: how far "
        "the class counts can be trusted."
    ),
    "num_samples": "Generated images judged.",
    "num_training_images": "Images the model learned from.",
    "num_held_out_images": "Images it never saw.",
    "denoising_images": "Images of each split behind the denoising losses.",
}

FAMILIES: dict[str, str] = {
    "samples_of_": "Samples whose nearest training image is of class {name}.",
    "skipped_": "Why {name} could not be measured.",
}


def badness(metrics: Mapping[str, Any], score: str) -> float:
    """How bad the score is, smaller for a better one; infinite where it is no finite number."""
    value = metrics.get(score)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        return math.inf
    return -value if score in LARGER_IS_BETTER else value


def explanation(metric: str) -> str:
    """One line on what `metric` means, or a KeyError where it is unknown."""
    for prefix, text in FAMILIES.items():
        if metric.startswith(prefix) and metric not in EXPLANATIONS:
            return text.format(name=metric.removeprefix(prefix).replace("_", " "))
    return EXPLANATIONS[metric]
