"""Quality on digits: every objective and every sampler with an equal network and budget.

    python benchmarks/digits_table.py --budget-kimg 50

One cell after the other: a cell that stands in ``results/digits_table.json`` is not computed again,
and a training that was stopped goes on. The network, the optimizer and all other choices are those
of ``conf/base``. At the end both tables go into ``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from measurement import RESULTS, chosen_device, machine, markdown_table, save_results, versions
from page import PAGE, replace_section

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.model import Model, load_model
from ddpm_kedro.evaluation.distribution import FLOOR_DRAWS
from ddpm_kedro.evaluation.features import PrincipalComponents
from ddpm_kedro.evaluation.frechet import Gaussian, expected_bias, frechet_distance
from ddpm_kedro.images import Digits
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.images.pixels import quantise
from ddpm_kedro.images.preparation import prepare
from ddpm_kedro.images.settings import PreparationSettings
from ddpm_kedro.images.store import ImageStore
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
from ddpm_kedro.training.tracker import Tracker
from ddpm_kedro.training.train import train

ROOT = Path(__file__).parents[1]

# A schedule that fits each objective, how its times are drawn, what its loss weighs, and a sampler
# that calls the network about 50 times.
OBJECTIVES: Mapping[str, Mapping[str, str]] = {
    "eps": {"schedule": "cosine", "times": "stratified", "weight": "uniform", "sampler": "ddim"},
    "x0": {"schedule": "cosine", "times": "stratified", "weight": "uniform", "sampler": "ddim"},
    "v": {"schedule": "cosine", "times": "stratified", "weight": "uniform", "sampler": "ddim"},
    "flow": {
        "schedule": "flow", "times": "stratified", "weight": "uniform", "sampler": "flow_heun",
    },
    "edm": {"schedule": "edm", "times": "log_normal", "weight": "edm", "sampler": "heun"},
}  # fmt: skip
VP_SAMPLERS = ("ancestral", "ddim", "euler", "heun", "dpmpp_2m", "dpmpp_2s")
FLOW_SAMPLERS = ("flow_euler", "flow_heun")
STEPS = (5, 10, 20, 50)
GUIDANCE = (1.0, 1.5, 2.0, 3.0)
CONDITIONAL_KIMG = 220.0  # the preset's own budget
CLASSES_ASKED = 100  # images of each class


def option_tables() -> dict[str, dict[str, Any]]:
    """The options of ``conf/base/parameters``, table by table."""
    tables: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / "conf" / "base" / "parameters").glob("*.yml")):
        tables |= yaml.safe_load(path.read_text())
    return tables


def base_training() -> dict[str, Any]:
    """The plain values of ``training`` in ``conf/base``."""
    return yaml.safe_load((ROOT / "conf" / "base" / "parameters.yml").read_text())["training"]


class Benchmark:
    """The cells that are finished, and what it takes to compute another one.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tables = option_tables()
        self.device = chosen_device()
        self.path = options.results / "digits_table.json"
        self.protocol = {
            "budget_kimg": options.budget_kimg,
            "conditional_budget_kimg": min(CONDITIONAL_KIMG, 2.2 * options.budget_kimg),
            "num_samples": options.num_samples,
            "precision": options.precision,
            "backbone": self.tables["backbones"]["compact"],
            "features": "20 principal components of the training images' pixels in [-1, 1]",
        }
        self.cells: dict[str, Any] = {}
        if self.path.exists():
            earlier = json.loads(self.path.read_text())
            if earlier["protocol"] == self.protocol:
                self.cells = earlier["cells"]
        chosen = PreparationSettings(
            image_size=None, test_fraction=0.1, channels=None, max_images=None, max_unreadable=0.0
        )
        prepared = prepare(Digits(), ImageStore(options.work / "images"), chosen)
        self.train_images = ImageSet.open(prepared.train.path)
        self.test_images = ImageSet.open(prepared.test.path)
        extractor = PrincipalComponents(20)
        extractor.fit(self.train_images.images)
        self.extractor = extractor
        self.real = Gaussian.of(extractor.features(self.train_images.images))

    def cell(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> None:
        """Compute the cell unless it is there, and save all cells."""
        if key in self.cells or time.monotonic() > self.options.ends_at:
            return
        started_at = time.monotonic()
        values = dict(compute())
        values["seconds"] = round(time.monotonic() - started_at, 2)
        self.cells[key] = values
        self.save()
        print(key, {k: round(v, 4) for k, v in values.items() if isinstance(v, float)}, flush=True)

    def save(self) -> None:
        """Write what there is."""
        floor = expected_bias(
            self.real.covariance, self.options.num_samples, len(self.train_images)
        )
        save_results(
            "digits_table",
            {
                "machine": machine(self.device),
                "versions": versions(),
                "protocol": self.protocol,
                "num_training_images": len(self.train_images),
                "num_held_out_images": len(self.test_images),
                "floor": floor,
                "cells": self.cells,
            },
            self.options.results,
        )

    def model(self, objective: str, seed: int, conditional: bool = False) -> Model:
        """The trained model; one that is trained already is only loaded."""
        choice, tables = OBJECTIVES[objective], self.tables
        values = base_training() | {
            "budget_kimg": self.protocol["conditional_budget_kimg" if conditional else
                                         "budget_kimg"],
            "augmentation": tables["augmentations"]["none"],
            "backbone": tables["backbones"]["compact"],
            "noise_schedule": tables["noise_schedules"][choice["schedule"]],
            "objective": tables["objectives"][objective],
            "loss_weight": tables["loss_weights"][choice["weight"]],
            "timesteps": tables["timestep_samplings"][choice["times"]],
            "optimizer": tables["optimizers"]["adam"],
            "lr_schedule": tables["lr_schedules"]["cosine"],
            "sampler": tables["samplers"][choice["sampler"]],
            "seed": seed,
            "device": "auto",
            "conditional": conditional,
            "precision": self.options.precision,
            "preview_every_kimg": None,
            "held_out_fraction": 0.0,
            "num_previews": 1,
        }  # fmt: skip
        store = CheckpointStore(self.options.work / "trainings")
        receipts = train(self.train_images, store, Tracker(), TrainingSettings(**values))
        return load_model(receipts.model.path, device=self.device)

    def draw(
        self, model: Model, seed: int, sampler: str, num_steps: int | None = None
    ) -> tuple[np.ndarray, int]:
        """Samples, made as one batch, and how often the network was called for them."""
        option = dict(self.tables["samplers"][sampler])
        option["num_steps"] = num_steps or option["num_steps"]
        calls = 0

        def count(*arguments: Any) -> None:
            nonlocal calls
            calls += 1

        hook = model.network.register_forward_hook(count)
        rows = torch.arange(self.options.num_samples)
        images = build(option).sample(model.denoiser, model.spec.image_shape, rows, seed)
        hook.remove()
        return quantise(images).cpu().numpy(), calls

    def scores(self, images: np.ndarray) -> dict[str, Any]:
        """Frechet distances to the training images and to the held-out ones."""
        drawn = Gaussian.of(self.extractor.features(images))
        held_out = Gaussian.of(self.extractor.features(self.test_images.images))
        real = np.concatenate(list(self.extractor.features(self.train_images.images)))
        generator, count = np.random.default_rng(0), min(len(images), len(real))
        sets = [real[generator.permutation(len(real))[:count]] for _ in range(FLOOR_DRAWS)]
        floors = [frechet_distance(Gaussian.of([one]), held_out) for one in sets]
        return {
            "frechet_distance": frechet_distance(drawn, self.real),
            "frechet_distance_held_out": frechet_distance(drawn, held_out),
            "frechet_floor_held_out": float(np.mean(floors)),
        }

    def quality(
        self, objective: str, seed: int, sampler: str, num_steps: int | None = None
    ) -> dict[str, Any]:
        """A model's score with one sampler."""
        images, calls = self.draw(self.model(objective, seed), seed, sampler, num_steps)
        return {**self.scores(images), "network_calls": calls}

    def asked_class(self, seed: int) -> dict[str, Any]:
        """How often conditional digits are what was asked for, by a classifier of real digits."""
        from sklearn.svm import SVC

        def rows(images: np.ndarray) -> np.ndarray:
            return images.reshape(len(images), -1) / 255

        train_set, test_set = self.train_images, self.test_images
        classifier = SVC(C=10).fit(rows(train_set.images), train_set.labels)
        result: dict[str, Any] = {
            "classifier_accuracy_held_out": float(
                classifier.score(rows(test_set.images), test_set.labels)
            )
        }
        model = self.model("v", seed, conditional=True)
        asked = np.arange(CLASSES_ASKED * len(train_set.classes)) % len(train_set.classes)
        for scale in GUIDANCE:
            images = model.sample(
                len(asked), seed=seed, labels=asked, guidance=scale, num_steps=50, batch_size=1000
            )
            drawn = Gaussian.of(self.extractor.features(images))
            result[f"guidance {scale:g}"] = {
                "share_of_asked_class": float(
                    (classifier.predict(rows(images)) == asked).mean()
                ),
                "frechet_distance": frechet_distance(drawn, self.real),
            }  # fmt: skip
        return result

    def run(self) -> None:
        """Every cell, the ones that matter most first."""
        seeds = range(self.options.seeds)
        for seed in seeds:
            for objective, choice in OBJECTIVES.items():
                sampler = choice["sampler"]
                self.cell(
                    f"objective {objective} seed {seed}",
                    lambda o=objective, s=sampler, n=seed: self.quality(o, n, s),
                )
            if seed == 0:
                self.cell("conditional seed 0", lambda: self.asked_class(0))
            for sampler in (*VP_SAMPLERS, *FLOW_SAMPLERS):
                objective = "flow" if sampler in FLOW_SAMPLERS else "v"
                for num_steps in STEPS:
                    self.cell(
                        f"sampler {sampler} steps {num_steps} seed {seed}",
                        lambda o=objective, s=sampler, k=num_steps, n=seed: self.quality(
                            o, n, s, k
                        ),
                    )
        for seed in list(seeds)[1:]:
            self.cell(f"conditional seed {seed}", lambda n=seed: self.asked_class(n))

    # The page ------------------------------------------------------------------------------------

    def _over_seeds(self, key: str) -> list[dict[str, Any]]:
        found = (self.cells.get(f"{key} seed {seed}") for seed in range(self.options.seeds))
        return [cell for cell in found if cell is not None]

    def tables_as_markdown(self) -> str:
        """Both tables and the conditional result; cells not computed yet are a dash."""
        saved = json.loads(self.path.read_text())
        lines = [
            f"Training: {saved['protocol']['budget_kimg']:g} kimg for each model, "
            f"{saved['num_training_images']:,} digits of 8x8, batch 128, the compact network of "
            f"`conf/base`; score: Frechet distance of {saved['protocol']['num_samples']:,} samples "
            f"to the training images on {saved['protocol']['features']}, lower is better; "
            f"a perfect model would score about {saved['floor']:.2f}. Mean and range over "
            f"{self.options.seeds} seeds (of training and of sampling).",
            "",
            markdown_table(
                ["objective", "noise schedule", "times", "loss weight", "sampler",
                 "network calls", "Frechet distance", "to held-out digits"],
                [
                    [
                        f"`{objective}`", *(f"`{choice[k]}`" for k in
                                            ("schedule", "times", "weight", "sampler")),
                        cells[0]["network_calls"] if cells else None,
                        _mean_and_range([cell["frechet_distance"] for cell in cells]),
                        _mean_and_range([cell["frechet_distance_held_out"] for cell in cells]),
                    ]
                    for objective, choice in OBJECTIVES.items()
                    for cells in [self._over_seeds(f"objective {objective}")]
                ],
            ),
            "",
            "Samplers on the `v` model (the two flow samplers on the `flow` model), by number of "
            "steps; in brackets how often the network is called where that differs:",
            "",
            markdown_table(
                ["sampler", *(f"{steps} steps" for steps in STEPS)],
                [
                    [f"`{sampler}`", *(self._sampler_cell(sampler, steps) for steps in STEPS)]
                    for sampler in (*VP_SAMPLERS, *FLOW_SAMPLERS)
                ],
            ),
        ]  # fmt: skip
        conditional = self._over_seeds("conditional")
        if conditional:
            accuracy = statistics.mean(c["classifier_accuracy_held_out"] for c in conditional)
            lines += [
                "",
                f"Conditional digits (`v`, {saved['protocol']['conditional_budget_kimg']:g} kimg, "
                f"label dropout 0.1, DDIM in 50 steps, {CLASSES_ASKED} images of each class, "
                f"{len(conditional)} training(s)): how often a support vector machine trained on "
                f"the real digits sees the class that was asked for. On real held-out digits it is "
                f"right in {accuracy:.1%} of cases.",
                "",
                markdown_table(
                    ["guidance scale", "asked class", "Frechet distance"],
                    [
                        [
                            f"{scale:g}",
                            _mean_and_range([100 * c[f"guidance {scale:g}"]["share_of_asked_class"]
                                             for c in conditional], "%"),
                            _mean_and_range([c[f"guidance {scale:g}"]["frechet_distance"]
                                             for c in conditional]),
                        ]
                        for scale in GUIDANCE
                    ],
                ),
            ]  # fmt: skip
        return "\n".join(lines)

    def _sampler_cell(self, sampler: str, steps: int) -> str | None:
        cells = self._over_seeds(f"sampler {sampler} steps {steps}")
        if not cells:
            return None
        calls = cells[0]["network_calls"]
        shown = _mean_and_range([cell["frechet_distance"] for cell in cells])
        return shown if calls == steps else f"{shown} [{calls}]"


def _mean_and_range(values: Sequence[float], unit: str = "") -> str | None:
    if not values:
        return None
    digits = ".1f" if max(values) >= 10 else ".2f"
    mean = f"{statistics.mean(values):{digits}}{unit}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):{digits}} to {max(values):{digits}})"


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget-kimg", type=float, default=50.0)
    parser.add_argument("--num-samples", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--max-minutes", type=float, default=600.0, help="begin no cell after that")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "ddpm_kedro_digits",
        help="where trainings and images are kept between calls",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    options.ends_at = time.monotonic() + 60 * options.max_minutes
    logging.getLogger("ddpm_kedro").setLevel(logging.ERROR)
    benchmark = Benchmark(options)
    benchmark.run()
    benchmark.save()
    text = benchmark.tables_as_markdown()
    print(text)
    replace_section(options.page, "digits table", text)


if __name__ == "__main__":
    main()
