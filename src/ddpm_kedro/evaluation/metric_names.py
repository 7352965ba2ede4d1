"""What every metric means, in one line each, in the order in which a report shows them."""

from __future__ import annotations

EXPLANATIONS: dict[str, str] = {
    "frechet_ratio": (
        "Distance of the samples divided by the floor: 1 is as good as real images, larger is "
        "worse."
    ),
    "frechet_distance": (
        "Frechet distance between samples and held-out images, as Gaussians in feature space. "
        "Compare only numbers with the same features and the same counts."
    ),
    "frechet_floor": (
        "The same distance for real images in place of the samples, as many of them: what a "
        "perfect model would score. Mean over random draws from the training images."
    ),
    "frechet_floor_std": "Spread of the floor between those draws.",
    "frechet_floor_expected": (
        "The floor that theory expects for Gaussian features: two finite sets of one distribution "
        "never match exactly."
    ),
    "features": "What the images were turned into before they were compared.",
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
    "memorisation_suspected": (
        "Whether the samples are closer to training images than held-out images are, beyond "
        "chance (1 in 1,000). Blurred samples come closer too: look at the closest pairs."
    ),
    "memorisation_excess": (
        "Largest surplus of samples over held-out images within any distance of a training image: "
        "0 none, 1 every sample is closer (one-sided Kolmogorov-Smirnov)."
    ),
    "memorisation_excess_limit": "What that surplus exceeds by chance once in 1,000 times.",
    "memorisation_ks": (
        "Largest difference between the two distributions of distances, in either direction: 0 "
        "they agree, 1 they do not overlap."
    ),
    "copies_of_training": "Samples that equal a training image byte for byte.",
    "copies_in_held_out": "Held-out images that equal a training image byte for byte.",
    "duplicate_samples": "Samples that equal an earlier sample byte for byte.",
    **{
        f"nearest_training_{name}_p{percentile:02d}": (
            f"{percentile}% of the {text} lie within this distance of a training image "
            "(root mean square difference in grey levels, 0-255)."
        )
        for name, text in (("samples", "samples"), ("held_out", "held-out images"))
        for percentile in (1, 5, 50, 95)
    },
    "classes_seen": "Classes that occur among the samples, by their nearest training image.",
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


def explanation(metric: str) -> str:
    """One line on what ``metric`` means.

    Raises:
        KeyError: it is unknown.
    """
    for prefix, text in FAMILIES.items():
        if metric.startswith(prefix) and metric not in EXPLANATIONS:
            return text.format(name=metric.removeprefix(prefix).replace("_", " "))
    return EXPLANATIONS[metric]
