"""Does the interval of a score hold the floor of a perfect model? In 95 of 100 draws it should.

    python benchmarks/score_coverage.py --features photos.npy more_photos.npy
    python benchmarks/score_coverage.py --images folder_of_parquet_files

The perfect model's samples are real images: each draw takes n samples, a reference of n and a pool
of 5 n from all that there are, without repetition within a draw. Counted are the draws in which
the floor lies above and below the interval, and in which |z| is at most 2; the deviations that the
scores state (of a value over fresh samples) are compared with the true one, the spread of the real
sets. Writes `benchmarks/results/score_coverage.json`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measurement import RESULTS, machine, markdown_table, save_results, versions

from ddpm_kedro.evaluation.distribution import FLOOR_DRAWS, distribution_scores
from ddpm_kedro.evaluation.sets import POOL_SIZE
from ddpm_kedro.evaluation.standing import Standing


def deviations(standing: Standing, share: float) -> tuple[float, float]:
    """Of the value over fresh samples: as the score states it, and as its floor's sets spread."""
    of_floor = share + (1 - share) / FLOOR_DRAWS  # the floor's variance, in units of a fresh set's
    fresh = standing.floor_std / math.sqrt(1 + of_floor)
    stated = (standing.interval / 1.96) ** 2 - fresh**2 * of_floor
    return math.sqrt(max(stated, 0.0)), fresh


def coverage(features: np.ndarray, count: int, draws: int) -> list[dict[str, Any]]:
    """One row for each score, of `draws` draws with `count` samples."""
    pool = min(POOL_SIZE * count, len(features) - 2 * count)
    found: dict[str, list[Standing]] = defaultdict(list)
    for draw in range(draws):
        order = np.random.default_rng((count, draw)).permutation(len(features))
        parts = np.split(features[order[: 2 * count + pool]], [count, 2 * count])
        for name, standing in distribution_scores(*parts, seed=draw).items():
            found[name].append(standing)
    return [_row(name, standings, count, pool) for name, standings in found.items()]


def _row(name: str, standings: list[Standing], count: int, pool: int) -> dict[str, Any]:
    gaps = np.array([(one.value - one.floor, one.interval) for one in standings])
    stated, fresh = np.transpose([deviations(one, count / pool) for one in standings])
    z = np.array([one.z for one in standings])
    return {
        "score": name,
        "n": count,
        "pool": pool,
        "draws": len(standings),
        "held": int((abs(gaps[:, 0]) <= gaps[:, 1]).sum()),
        "floor_below": int((gaps[:, 0] > gaps[:, 1]).sum()),
        "floor_above": int((gaps[:, 0] < -gaps[:, 1]).sum()),
        "stated_over_true_deviation": float(stated.mean() / math.sqrt(np.square(fresh).mean())),
        "true_deviation": math.sqrt(np.square(fresh).mean()),
        "mean_floor": float(np.mean([one.floor for one in standings])),
        "z_mean": float(z.mean()),
        "z_std": float(z.std(ddof=1)),
        "z_within_2": int((abs(z) <= 2).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--features", type=Path, nargs="+", help=".npy files (n, d) of real images")
    source.add_argument("--images", type=Path, help="folder of Parquet files of real images")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 2000])
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    described, began = machine(torch.device("cpu")), time.process_time()
    features = np.concatenate([np.load(path) for path in arguments.features])
    rows = [row for n in arguments.counts for row in coverage(features, n, arguments.draws)]
    results = {
        "machine": described,
        "versions": versions(),
        "images": len(features),
        "processor_seconds": round(time.process_time() - began),
        "rows": rows,
    }
    save_results("score_coverage", results, arguments.results)
    header = [key for key in rows[0] if key not in ("pool", "draws")]
    print(markdown_table(header, [[row[key] for key in header] for row in rows]))


if __name__ == "__main__":
    main()
