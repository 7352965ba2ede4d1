"""The verdict on a model in two sentences: how good its samples are, and what to try next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_kedro.evaluation.curves import column
from ddpm_kedro.evaluation.metric_names import TITLES

ENOUGH_SAMPLES = 2000  # fewer leave the floor so wide that small faults stay unseen
CLEAR = 4.0  # deviations: one of five scores reaches 2 by chance, none reaches 4
FEW_IMAGES_SEEN = 5_000_000  # published models of small photographs see 20 to 400 million
LARGE_GAP = 0.1  # by which the loss on held-out images exceeds that on training images
SURE_OF_CLASSES = 0.5  # how often the class of the nearest image must be right to be believed
SAMPLES_PER_CLASS = 10  # of so many expected, chance leaves none once in 22,000 times
UNKNOWN = "not measured"

# How bad each word of a score is, and what it says of the samples.
WORDS = {
    "far": (2, "The samples are far from real images"),
    "close": (1, "The samples are close to real images, but can be told from them"),
    "indistinguishable": (0, "The scores cannot tell the samples from real images"),
    "not distinguishable": (0, "So few samples cannot be told from real images, which says little"),
    "better than real images": (
        0,
        "The samples score better than real images, which is no good sign",
    ),
    UNKNOWN: (0, "How good the samples are could not be measured"),
}
OTHERS = [name for name in TITLES if name != "mind"]


@dataclass(frozen=True)
class Findings:
    """What the rules look at."""

    lead: str  # the word of the worst score
    word: str  # the same without pixels, which have advice of their own
    count: int  # samples compared
    worst: str | None  # the score that says clearly worse than MIND does
    copies: bool
    gap: float
    missing_classes: int
    broken: bool
    images_seen: int | None
    falling: bool | None  # loss or quick score, at the end of training
    best_was_earlier: bool


# What to try: the first rule that applies. Each says why.
RULES: list[tuple[Callable[[Findings], bool], str]] = [
    (
        lambda f: f.broken,
        "a lower learning rate or training.precision=fp32, because the network's answers are not "
        "finite numbers",
    ),
    (
        lambda f: f.copies,
        "more training images, augmentation=flip, dropout, a shorter training or other "
        "sampling.weights, because a network copies what it has seen too often",
    ),
    (
        lambda f: f.word == "better than real images",
        "a look at the closest pairs, because only copies, or samples of the commonest kinds "
        "alone, score better than new real images",
    ),
    (
        lambda f: f.gap > LARGE_GAP,
        "more training images, augmentation=flip, dropout or a shorter training, because the "
        "network overfits: its loss is {gap:.0%} larger on images that it never saw",
    ),
    (
        lambda f: f.best_was_earlier,
        "sampling.weights=best, because the score while training was better before its end",
    ),
    (
        lambda f: f.word == "far" and bool(f.falling),
        "a higher training.budget_kimg, because the model was still improving when training ended "
        "after {images_seen:,} images",
    ),
    (
        lambda f: f.word == "far" and f.images_seen is not None and f.images_seen < FEW_IMAGES_SEEN,
        "a higher training.budget_kimg, because {images_seen:,} images seen are few",
    ),
    (
        lambda f: f.missing_classes > 0,
        "a longer training, training.conditional=true or less guidance, because no sample looks "
        "like {missing_classes} of the classes",
    ),
    (
        lambda f: f.worst == "pixels_frechet",
        "a look at colours and brightness, and for mirrored or shifted samples, because pixels "
        "differ where the network's features hardly do",
    ),
    (
        lambda f: f.worst in ("coverage", "recall"),
        "less guidance or other sampling.weights, because the samples vary less than real images",
    ),
    (
        lambda f: f.word == "far" and f.images_seen is None,
        "fine-tuning on these images with training.init_from, because nothing says that the model "
        "has learned from such images",
    ),
    (
        lambda f: f.word == "far",
        "a larger backbone or more sampling.num_steps, because after {images_seen:,} images longer "
        "training alone gains little",
    ),
    (
        lambda f: f.word == "close",
        "a longer training or more sampling.num_steps, because both still help where little is "
        "missing",
    ),
    (
        lambda f: f.word != UNKNOWN and f.count < ENOUGH_SAMPLES,
        f"sampling.num_samples={ENOUGH_SAMPLES}, because {{count:,}} samples show only large "
        "faults",
    ),
    (
        lambda f: f.word != UNKNOWN,
        "more samples, because only they would show smaller faults",
    ),
]


def verdict(metrics: Mapping[str, Any], training: Mapping[str, Any] | None = None) -> str:
    """Two sentences: how good the samples are, compared with what; whether they are copies, what
    to try next, and why.

    `metrics` are the flat ones of an evaluation; `training` is what is known of the model's: its
    provenance, or `training_facts`. Equal numbers give equal words.
    """
    found = _findings(metrics, training or {})
    tried = next((text for applies, text in RULES if applies(found)), None)
    advice = f"; what to try next: {tried.format_map(vars(found))}" if tried else ""
    return f"{_how_good(metrics, found)}. {_memorised(metrics, found)}{advice}."


def training_facts(
    records: Iterable[Mapping[str, Any]], provenance: Mapping[str, Any], weights: str | None = None
) -> dict[str, Any]:
    """What `verdict` wants to know of a training, from its log, the model's provenance and the
    name of the weights that drew the samples.

    `falling` says that the last quick score is the best, or, without such scores, that the last
    quarter of the losses lies two standard errors below the third; `best_was_earlier` that a
    quick score of weights that were not taken is a tenth better than the last.
    """
    records = list(records)
    facts = {"images_seen": provenance.get("images_seen")}
    if records:
        facts["images_seen"] = records[-1]["images_seen"]
    loss, score = column(records, "loss")[1], column(records, "quick_score")[1]
    if len(score) >= 3:
        facts["falling"] = bool(score[-1] == score.min())
        facts["best_was_earlier"] = bool(score.min() < 0.9 * score[-1]) and weights != "best"
    elif len(loss) >= 8:
        third, last = np.array_split(loss, 4)[2:]
        error = np.hypot(third.std() / len(third) ** 0.5, last.std() / len(last) ** 0.5)
        facts["falling"] = bool(last.mean() < third.mean() - 2 * error)
    return facts


def _findings(metrics: Mapping[str, Any], training: Mapping[str, Any]) -> Findings:
    def number(name: str) -> float:
        return metrics.get(name) or 0

    words = {name: metrics.get(f"{name}_verdict") or UNKNOWN for name in TITLES}
    worse = [
        name
        for name in OTHERS
        if number(f"{name}_z") > CLEAR and WORDS[words[name]][0] > WORDS[words["mind"]][0]
    ]
    worse.sort(key=lambda name: -number(f"{name}_z"))
    of_features = [name for name in worse if name != "pixels_frechet"]
    exact = number("copies_of_training") + number("mirrored_copies_of_training")
    classes_are_told = number("nearest_label_accuracy") >= SURE_OF_CLASSES and number(
        "num_samples"
    ) >= SAMPLES_PER_CLASS * number("num_classes")
    return Findings(
        lead=words[worse[0] if worse else "mind"],
        word=words[of_features[0] if of_features else "mind"],
        count=metrics["num_samples"],
        worst=worse[0] if worse else None,
        copies=bool(metrics.get("memorisation_suspected")) or exact > number("copies_in_held_out"),
        gap=number("denoising_gap"),
        missing_classes=classes_are_told * (number("num_classes") - number("classes_seen")),
        broken=metrics.get("denoising_loss_held_out", 0) is None,
        images_seen=training.get("images_seen"),
        falling=training.get("falling"),
        best_was_earlier=training.get("best_was_earlier", False),
    )


def _how_good(metrics: Mapping[str, Any], found: Findings) -> str:
    said, z, ratio = WORDS[found.lead][1], metrics.get("mind_z"), metrics.get("mind_ratio")
    if z is not None:
        side = f"{three_digits(abs(z))} deviations {'above' if z >= 0 else 'below'}"
        real = "that of as many real images"
        said += ": MIND " + (
            f"lies {side} {real}"
            if ratio is None
            else f"is {three_digits(ratio)} times {real}, {side}"
        )
    if found.worst:
        off = three_digits(metrics[f"{found.worst}_z"])
        said += f", and {TITLES[found.worst]} is {off} deviations off"
    if "reference" in metrics:
        said += f" (against {metrics['reference']} and as many samples)"
    return said


def _memorised(metrics: Mapping[str, Any], found: Findings) -> str:
    if "memorisation_suspected" not in metrics:
        return "Whether they are copies was not measured"
    if not found.copies:
        return "Nothing suggests that they are copies of training images"
    said = []
    for prefix, space in (("", ""), ("pixels_", " in pixels")):
        near, limit = (metrics.get(f"{prefix}near_copies{end}") or 0 for end in ("", "_limit"))
        if near > limit:
            said.append(
                f"{near:,} lie nearer to one training image{space} than 99% of new images do, "
                f"where chance allows {limit:,}"
            )
    for name, text in (("copies_of", "equal one"), ("mirrored_copies_of", "equal one mirrored")):
        if metrics.get(f"{name}_training"):
            said.append(f"{metrics[f'{name}_training']:,} {text}")
    return f"Some are probably copies of training images: {'; '.join(said) or 'look at the pairs'}"


def three_digits(value: float) -> str:
    """Three digits, and no more decimals than two."""
    return f"{value:,.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"
