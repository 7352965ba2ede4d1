"""The scores on planted generators: real images with one known defect each, on three data sets.

    python benchmarks/calibration.py --photos .../cifar10_jpeg

What is planted, and what is expected to stay unseen, stands in `planted.py`. Every set goes through
the functions that an evaluation calls. What stands in `results/calibration.json` is not scored
again. The tables go into `docs/evaluation.md`. Ends with 1 where 2,000 images hide a defect that is
not on the list, or where real images are told from real ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measurement import RESULTS, chosen_device, machine, markdown_table, save_results, versions
from page import replace_section, where
from planted import COLOUR_ONLY, INVISIBLE, PERFECT, PLANTED, Material

from ddpm_kedro.evaluation.distribution import SCORES_VERSION
from ddpm_kedro.evaluation.feature_store import FeatureStore
from ddpm_kedro.evaluation.features.auto import AutoFeatures
from ddpm_kedro.evaluation.scores import Metrics, distribution_metrics, memorisation_metrics
from ddpm_kedro.evaluation.sets import ComparedSets, compared_sets
from ddpm_kedro.images import Digits, ParquetImages, TorchvisionImages
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.images.preparation import prepare
from ddpm_kedro.images.settings import PreparationSettings
from ddpm_kedro.images.store import ImageStore

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
DEBIAN = "/usr/share/datasets/fashion-mnist"  # the package dataset-fashion-mnist
SEED = 0
TOLD = 4.0  # deviations from the floor
ENOUGH = 2000  # images, of which every defect must be told that is not listed
SCORES = ("mind", "kid", "frechet", "coverage", "recall", "pixels_frechet")
TELLING = tuple(score for score in SCORES if score != "recall")  # recall stands beside
COPIES = (
    "near_copies", "near_copies_limit", "pixels_near_copies", "pixels_near_copies_limit",
    "copies_of_training", "mirrored_copies_of_training", "duplicate_samples",
    "memorisation_excess", "memorisation_suspected",
)  # fmt: skip

# Images held out from training, trained on (in so far as the scores look at them), and neither:
# what is planted is made of the last. Then the sizes n, as large as there are images for.
SPLITS = {
    "digits": (400, 997, 400),
    "fashion": (4000, 12000, 24000),
    "photos": (4000, 12000, 24000),
}
SIZES = {"digits": (400,), "fashion": (500, 2000), "photos": (500, 2000)}
TITLES = {
    "digits": "Digits: 8x8, grey; too few for more than n = 400",
    "fashion": "Fashion-MNIST: 28x28, grey",
    "photos": "Photos of CIFAR-10, as JPEGs of quality 75: 32x32, colour",
}


def opened(data: str, options: argparse.Namespace) -> list[ImageSet]:
    """Held-out, training and fresh images of a data set, drawn from all that it has."""
    sources = {
        "digits": Digits,
        "fashion": lambda: TorchvisionImages("FashionMNIST", options.raw, idx_folders=[DEBIAN]),
        "photos": lambda: ParquetImages(options.photos),
    }
    settings = PreparationSettings(
        image_size=None, test_fraction=0.1, channels=None, max_images=None, max_unreadable=0.0
    )
    prepared = prepare(sources[data](), ImageStore(options.work / "images"), settings)
    splits = [ImageSet.open(part.path) for part in (prepared.train, prepared.test)]
    images = np.concatenate([part.images for part in splits])
    labels = np.concatenate([part.labels for part in splits])
    rows = np.random.default_rng(SEED).permutation(len(images))
    parts = np.split(rows, np.cumsum(SPLITS[data]))[:3]
    return [ImageSet(images[part], labels[part], splits[0].classes) for part in parts]


class Scorer:
    """Scores what is planted in one data set."""

    def __init__(self, data: str, options: argparse.Namespace) -> None:
        self.held_out, self.training, self.fresh = opened(data, options)
        self.store = FeatureStore(options.work / "features")
        self.extractor = AutoFeatures().for_images(self.training.image_shape)

    def sets(self, samples: np.ndarray) -> ComparedSets:
        """Which images are compared; the reference depends on the number of samples only."""
        return compared_sets(samples, self.training, self.held_out, None, SEED)

    def planted(self, name: str, count: int) -> np.ndarray:
        """Samples of a planted generator, uint8 (n, C, H, W)."""
        reference = self.sets(self.fresh.images[:count]).reference
        material = Material(self.fresh.images, self.fresh.labels, self.training.images, reference)
        return PLANTED[name](material, count, np.random.default_rng(SEED))

    def metrics(self, samples: np.ndarray) -> Metrics:
        """What an evaluation says of such samples, but for the model's own loss."""
        sets = self.sets(samples)
        found, features = distribution_metrics(
            self.extractor, sets, self.held_out, SEED, store=self.store
        )
        of_network = {} if self.extractor.uses_pixels else {"features": features, "sets": sets}
        memorisation, _ = memorisation_metrics(
            samples, self.training, self.held_out, len(samples), **of_network
        )
        return found | memorisation | {"n": len(sets.samples)}

    def cell(self, metrics: Metrics) -> dict[str, Any]:
        """What is kept of them."""
        names = ["n", *COPIES]
        names += [f"{score}{part}" for score in SCORES for part in ("", "_z")]
        kept = {name: _rounded(metrics[name]) for name in names if name in metrics}
        return kept | {"told_by": told_by(metrics)}


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def told_by(cell: Mapping[str, Any]) -> list[str]:
    """The scores more than four deviations from the floor, and the search for copies."""
    told = [score for score in TELLING if abs(cell.get(f"{score}_z", 0.0)) > TOLD]
    return told + ["copies"] * bool(cell["memorisation_suspected"])


def faults(data: Mapping[str, Any]) -> list[str]:
    """What is against expectation with enough images: defects missed, real images told."""
    found = []
    for name, part in data.items():
        for size, of_size in part["sizes"].items():
            for planted, cell in of_size["cells"].items() if int(size) >= ENOUGH else ():
                told = ", ".join(cell["told_by"])
                if planted == PERFECT and told:
                    found.append(f"{name}, n = {size}: {planted} are told by {told}")
                if planted not in INVISIBLE[name] and not told:
                    found.append(f"{name}, n = {size}: {planted} is told by nothing")
    return found


def section(result: Mapping[str, Any]) -> str:
    """The part of the page: a table for each data set."""
    blocks = [where(result)]
    for data, part in result["data"].items():
        sizes = sorted((int(size) for size in part["sizes"]), reverse=True)
        cells = [part["sizes"][str(size)]["cells"] for size in sizes]
        scores = [score for score in SCORES if score in cells[0][PERFECT]]
        heads = {"mind": "MIND", "kid": "KID x 1,000", "pixels_frechet": "pixels"}
        blocks += [
            f"### {TITLES[data]}",
            f"Features: {part['features']}; n = {sizes[0]:,} where nothing else is said.",
            markdown_table(
                ["planted", *(heads.get(score, score) for score in scores), "near copies (limit)",
                 *(f"told, n = {size:,}" for size in sizes)],
                [
                    [
                        _named(name, cells[0][name], sizes[0]),
                        *(_scored(cells[0][name], score) for score in scores),
                        _copies(cells[0][name]),
                        *(_told(data, name, of_size) for of_size in cells),
                    ]
                    for name in cells[0]
                ],
            ),
            *_unseen(data, cells[0]),
        ]  # fmt: skip
    return "\n\n".join(blocks)


def _named(name: str, cell: Mapping[str, Any], size: int) -> str:
    return name if cell["n"] == size else f"{name} (n = {cell['n']:,})"


def _scored(cell: Mapping[str, Any], score: str) -> str:
    value, z = cell[score] * (1000 if score == "kid" else 1), cell[f"{score}_z"]
    text = f"{value:,.3g} ({z:+.0f})" if abs(value) < 1000 else f"{value:,.0f} ({z:+,.0f})"
    return f"**{text}**" if abs(z) > TOLD and score in TELLING else text


def _copies(cell: Mapping[str, Any]) -> str:
    """In features, and in pixels where these are others."""
    parts = [(cell[f"{of}near_copies"], cell[f"{of}near_copies_limit"])
             for of in ("", "pixels_") if f"{of}near_copies" in cell]  # fmt: skip
    return ", ".join(
        f"**{found:,}** ({limit:,})" if found > limit else f"{found:,} ({limit:,})"
        for found, limit in parts
    )


def _told(data: str, name: str, cells: Mapping[str, Any]) -> str:
    """Whether a score tells it that does not tell real images of the same draw as well."""
    if name not in cells:
        return "not run"
    if name != PERFECT and set(cells[name]["told_by"]) - set(cells[PERFECT]["told_by"]):
        return "yes"
    if name == PERFECT and cells[name]["told_by"]:
        return f"by chance: {', '.join(cells[name]['told_by'])}"
    if name == PERFECT:
        return "no, rightly"
    return "no, as listed" if name in INVISIBLE[data] else "**no**"


def _unseen(data: str, cells: Mapping[str, Any]) -> list[str]:
    """What was listed beforehand, and what nothing told and nobody had foreseen."""
    listed = [
        f"- {name}: {reason}." + (" Told all the same." if cells[name]["told_by"] else "")
        for name, reason in INVISIBLE[data].items()
        if name != PERFECT and name in cells
    ]
    missed = [name for name in cells if not cells[name]["told_by"] and name not in INVISIBLE[data]]
    blocks = ["Listed beforehand as invisible:\n\n" + "\n".join(listed)] if listed else []
    return blocks + ([f"Missed, and not foreseen: {'; '.join(missed)}."] if missed else [])


def intervals(result: Mapping[str, Any]) -> str:
    """The part of the page on what `score_coverage.py` found."""
    rows = [
        [row["score"], row["n"], f"{row['held']} of {row['draws']}", row["floor_below"],
         row["floor_above"], f"{row['z_within_2']} of {row['draws']}"]
        for row in result["rows"]
    ]  # fmt: skip
    head = ["score", "n", "intervals that hold the floor", "floor below", "above", "z within 2"]
    return f"{where(result)}\n\n{markdown_table(head, rows)}"


def finished(path: Path, protocols: Mapping[str, Any]) -> dict[str, Any]:
    """What earlier calls left at `path`, of the data sets whose protocol is still the same."""
    parts = json.loads(path.read_text())["data"] if path.exists() else {}
    same = [data for data in parts if parts[data]["protocol"] == protocols.get(data)]
    return {data: parts[data] for data in same}


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of CIFAR-10 as Parquet files")
    parser.add_argument("--raw", type=Path, default=Path("data/01_raw"),
                        help="Fashion-MNIST, where Debian's package is not installed")  # fmt: skip
    parser.add_argument("--only", nargs="*", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "ddpm_kedro_calibration",
        help="where prepared images and features are kept between calls",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if "photos" in options.only and options.photos is None:
        parser.error("the photos need --photos; or choose others with --only")
    protocols = {data: _protocol(data) for data in SPLITS}
    done = finished(options.results / "calibration.json", protocols)
    facts = {"machine": machine(chosen_device()), "versions": versions(), "told": TOLD}
    for data in options.only:
        scorer = Scorer(data, options)
        part = {"features": scorer.extractor.identity, "sizes": {}, "seconds": 0.0}
        part = done.setdefault(data, {"protocol": protocols[data], **part})
        for count in SIZES[data]:
            of_size = part["sizes"].setdefault(str(count), {"floors": {}, "cells": {}})
            for name in PLANTED:
                colourless = len(scorer.training.images[0]) == 1
                if name in of_size["cells"] or (name in COLOUR_ONLY and colourless):
                    continue
                started_at = time.monotonic()
                metrics = scorer.metrics(scorer.planted(name, count))
                cell = scorer.cell(metrics)
                of_size["cells"][name] = cell
                if name == PERFECT:
                    of_size["floors"] = _floors(metrics)
                part["seconds"] = round(part["seconds"] + time.monotonic() - started_at, 1)
                print(
                    f"{data}, n = {count}, {name}: {', '.join(cell['told_by']) or '-'}", flush=True
                )
                save_results("calibration", {**facts, "data": done}, options.results)
    result = json.loads((options.results / "calibration.json").read_text())
    text = section(result)
    print(text)
    if options.results == RESULTS:
        replace_section(PAGE, "calibration", text)
        if (of_intervals := RESULTS / "score_coverage.json").exists():
            found = intervals(json.loads(of_intervals.read_text()))
            replace_section(PAGE, "score coverage", found)
    if wrong := faults(done):
        raise SystemExit("\n".join(wrong))


def _protocol(data: str) -> dict[str, Any]:
    return {"splits": list(SPLITS[data]), "seed": SEED, "scores_version": SCORES_VERSION}


def _floors(metrics: Metrics) -> dict[str, float]:
    names = [f"{score}_floor{part}" for score in SCORES for part in ("", "_std")]
    return {name: _rounded(metrics[name]) for name in names if name in metrics}


if __name__ == "__main__":
    main()
