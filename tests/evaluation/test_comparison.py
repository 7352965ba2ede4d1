from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from finished_runs import ADAM, finished_run, recorded, write
from PIL import Image

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.comparison import compare
from ddpm_kedro.evaluation.comparison.differences import (
    deviations,
    differing_parameters,
    groups,
    noise_from,
)
from ddpm_kedro.evaluation.comparison.film import grid_at
from ddpm_kedro.evaluation.comparison.runs import SHOWN_SAMPLES, Run, find_runs


def runs_of(*folders: Path) -> dict[str, Path]:
    return {folder.name: folder for folder in folders}


def read(*folders: Path) -> list[Run]:
    return [Run.read(folder.name, folder) for folder in folders]


# Differences and noise ----------------------------------------------------------------------------


def test_any_of_equal_runs_seem_different_as_seldom_as_two() -> None:
    assert noise_from(2) == pytest.approx(2.0)
    generator = np.random.default_rng(0)
    for count in (2, 4, 8):
        values = generator.normal(size=(20_000, count))
        apart = np.ptp(values, axis=1) / np.sqrt(2)  # of the best and the worst
        assert 0.015 < (apart > noise_from(count)).mean() < 0.05


def test_a_difference_is_counted_in_its_own_deviations(tmp_path: Path) -> None:
    first = finished_run(tmp_path / "a", mind=10, interval=1.96 * 3, coverage=0.9)
    second = finished_run(tmp_path / "b", mind=20, interval=1.96 * 4, coverage=0.8)
    a, b = read(first, second)
    assert deviations(b, a, "mind") == pytest.approx(2.0)  # 10 of 5
    assert deviations(a, b, "mind") == pytest.approx(-2.0)
    assert deviations(b, a, "coverage") == pytest.approx(0.1 / (0.01 * np.sqrt(2)))  # it is worse


@pytest.mark.parametrize(("apart", "said"), [(1.9, "within the noise"), (2.1, "exceeds the noise")])
def test_the_first_sentence_says_which_is_best_and_whether_by_more_than_noise(
    tmp_path: Path, apart: float, said: str
) -> None:
    worse = finished_run(tmp_path / "worse", mind=10 + apart * np.sqrt(2))
    better = finished_run(tmp_path / "better", mind=10)
    found = compare(runs_of(worse, better))
    assert found.table["verdict"].startswith("Of 2 runs better is best: MIND 10.0 \u00b1 2.0")
    assert said in found.table["verdict"]
    assert found.table["verdict"] in found.html
    assert list(found.table["runs"]) == ["better", "worse"]
    assert found.table["runs"]["worse"]["mind_from_best"] == pytest.approx(apart)


def test_more_runs_need_a_larger_difference(tmp_path: Path) -> None:
    minds = {"a": 10, "b": 10 + 2.2 * np.sqrt(2), "c": 90}
    folders = [finished_run(tmp_path / name, mind=mind) for name, mind in minds.items()]
    said = compare(runs_of(*folders[:2])).table["verdict"]
    assert "exceeds the noise" in said
    said = compare(runs_of(*folders)).table["verdict"]
    assert "within the noise (2.43 among 3 runs). Chance alone may set b apart from a." in said
    vague = finished_run(tmp_path / "vague", mind=40, interval=1.96 * 30)
    said = compare(runs_of(folders[0], folders[2], vague)).table["verdict"]
    assert "Chance alone may set vague apart from a." in said  # not c, which is worse and sure


def test_copies_are_no_good_score(tmp_path: Path) -> None:
    copier = finished_run(tmp_path / "copier", mind=1, memorisation_suspected=True)
    found = compare(runs_of(copier, finished_run(tmp_path / "honest", mind=9)))
    assert "samples of copier are probably copies" in found.table["verdict"]


def test_only_equal_stamps_are_compared(tmp_path: Path) -> None:
    folders = [
        finished_run(tmp_path / "small", mind=1, stamp="another"),
        finished_run(tmp_path / "x", mind=10),
        finished_run(tmp_path / "y", mind=20),
        finished_run(tmp_path / "old", mind=1, stamp=None),
        finished_run(tmp_path / "older", mind=2, stamp=None),
    ]
    found = [[run.name for run in group.runs] for group in groups(read(*folders))]
    assert found == [["x", "y"], ["small"], ["old"], ["older"]]
    comparison = compare(runs_of(*folders))
    assert comparison.table["verdict"].startswith("Of 2 runs of stamp 5ca1ab1e x is best")
    assert "do not compare" in comparison.table["verdict"]
    assert comparison.html.count("not comparable") == 3
    said = compare(runs_of(*folders[2:4])).table["verdict"]
    assert said == "No two of the runs have scores of one stamp, so none can be called better."


def test_runs_without_scores_stand_last(tmp_path: Path) -> None:
    lone = finished_run(tmp_path / "lone", mind=5)
    bare = finished_run(tmp_path / "bare", mind=1, mind_interval=None, coverage=None)
    found = compare(runs_of(bare, lone))
    assert list(found.table["runs"]) == ["lone", "bare"]
    assert "the only one with MIND" in found.table["verdict"]


# Parameters ---------------------------------------------------------------------------------------


def test_only_what_differs_is_told_argument_by_argument(tmp_path: Path) -> None:
    path = {"type": "torch.optim.adam.Adam", "lr": 0.01}  # another path of the same class
    one = recorded(finished_run(tmp_path / "a"), training={"optimizer": ADAM, "seed": 0})
    two = recorded(finished_run(tmp_path / "b"), training={"optimizer": path, "seed": 0})
    assert differing_parameters(read(one, two)) == {"training.optimizer.lr": [0.002, 0.01]}
    sgd = {"type": "torch.optim.SGD", "lr": 0.002}
    three = recorded(finished_run(tmp_path / "c"), training={"optimizer": sgd, "seed": 0})
    assert differing_parameters(read(one, three)) == {"training.optimizer": [ADAM, sgd]}
    assert "SGD(lr=0.002)" in compare(runs_of(one, three)).html


def test_a_run_without_records_is_told_by_its_model(tmp_path: Path) -> None:
    old = finished_run(tmp_path / "old", optimizer={**ADAM, "lr": 0.1}, num_samples=20)
    new = recorded(finished_run(tmp_path / "new"), training={"optimizer": ADAM, "batch_size": 8})
    (new / "06_models").mkdir()
    (new / "06_models" / "other.made.json").write_text("{torn")
    assert differing_parameters(read(new, old)) == {
        "training.optimizer.lr": [0.002, 0.1],
        "sampling.num_samples": [40, 20],
    }


# What is read -------------------------------------------------------------------------------------


def test_the_first_samples_are_shown_if_they_are_those_judged(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "a")
    (run,) = read(folder)
    whole = np.load(folder / "07_model_output" / "samples.npy")
    np.testing.assert_array_equal(run.samples, whole[:SHOWN_SAMPLES])
    write(folder / "07_model_output" / "samples_card.json", {"model": "drawn again by another"})
    assert read(folder)[0].samples is None
    assert "samples of a" not in compare(runs_of(folder)).html


def test_only_the_first_samples_are_read(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "a")
    path = folder / "07_model_output" / "samples.npy"
    path.unlink()
    huge = np.lib.format.open_memmap(path, "w+", np.uint8, (1 << 22, 1, 64, 64))  # 16 GiB of holes
    del huge
    assert read(folder)[0].samples.shape == (SHOWN_SAMPLES, 1, 64, 64)


def test_the_log_of_another_model_is_left_out(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "a")
    (run,) = read(folder)
    assert [line["images_seen"] for line in run.log] == [1000, 2000, 3000]  # the torn line is not
    write(folder / "08_reporting" / "training_card.json", {"model": "other", "status": "finished"})
    (run,) = read(folder)
    assert (run.log, run.previews) == ([], {})
    assert "Loss against images" not in compare(runs_of(folder)).html


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("08_reporting/metrics.json", None, "is no finished run"),
        ("08_reporting/metrics.json", b"{torn", "metrics.json is not whole JSON"),
        ("08_reporting/metrics.json", b"[]", "holds no JSON object"),
        ("08_reporting/metrics.json", b"{}", "not of one evaluation"),
        ("07_model_output/samples.npy", b"torn", "samples.npy is not a whole array"),
    ],
)
def test_what_is_no_finished_run_is_refused(
    tmp_path: Path, file: str, content: bytes | None, said: str
) -> None:
    folder = finished_run(tmp_path / "a")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=said):
        compare(runs_of(folder))


def test_runs_are_folders_or_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweeps = tmp_path / "sweeps"
    trial = "sweeps/grid/optimizer=sgd,lr=0.1"
    for name in ("here", "sweeps/rates/low", "sweeps/rates/high", "sweeps/sizes/low", "a=b", trial):
        (tmp_path / name).mkdir(parents=True)
    named = ["here", "high", "sizes/low", "best=rates/low", "a=b", Path(trial).name]
    found = find_runs([*named, f"mine=grid/{Path(trial).name}"], sweeps)
    assert found == {
        "here": Path("here"),
        "high": sweeps / "rates" / "high",
        "low": sweeps / "sizes" / "low",
        "best": sweeps / "rates" / "low",
        "a=b": Path("a=b"),
        "optimizer=sgd,lr=0.1": tmp_path / trial,
        "mine": tmp_path / trial,
    }
    for wrong, said in {
        ("nowhere",): "no such folder, and no trial",
        ("a=",): "no such folder",
        ("low",): "several sweeps; choose one of rates/low, sizes/low",
        ("here", "here"): "two runs are called here",
        (): "no runs to compare",
    }.items():
        with pytest.raises(InputError, match=said):
            find_runs(wrong, sweeps)
    with pytest.raises(InputError, match="no runs"):
        compare({})


# The page -----------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Fails on a tag that is closed in the wrong order or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_page_is_whole_loads_nothing_and_is_the_same_again(tmp_path: Path, count: int) -> None:
    folders = [finished_run(tmp_path / f"<i>{n}", mind=10 + n) for n in range(count)]
    page = compare(runs_of(*folders)).html
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(source.startswith("data:image/") for source in tags.sources)
    assert not re.search(r"http|url\(|@import|<script|<i>", re.sub(r"base64,[^\"]+", "", page))
    assert page.count('<figure class="row">') == count
    assert compare(runs_of(*folders)).html == page


def test_twenty_runs_have_twenty_lines_each_the_same_in_all_charts(tmp_path: Path) -> None:
    folders = [finished_run(tmp_path / f"run{n:02d}", mind=10 + n) for n in range(20)]
    write(folders[0] / "08_reporting" / "training_card.json", {"model": "other"})  # has no curve
    page = compare(runs_of(*folders)).html
    legend = re.findall(r'<span class="key (c\d d\d)">(run\d\d)</span>', page)
    assert len(legend) == 2 * 19  # of the loss, against images and time
    assert len(set(legend)) == 19
    assert len({kind for kind, _ in legend}) == 19
    for (kind, _), (other, _) in combinations(legend[:4], 2):
        assert kind[-2:] != other[-2:]  # not by colour alone
    assert f'<line class="line {legend[0][0]}"' in page


def test_costs_are_told_of_the_log_and_the_network(tmp_path: Path) -> None:
    row = compare(runs_of(finished_run(tmp_path / "a"))).table["runs"]["a"]
    assert (row["images_seen"], row["minutes"]) == (3000, 3)
    assert row["images_per_second"] == pytest.approx(3000 / 180)
    assert row["parameters"] > 0
    assert row["training_gflop"] > 0


# The film -----------------------------------------------------------------------------------------


def test_the_film_has_a_frame_for_each_moment(tmp_path: Path) -> None:
    long, short = finished_run(tmp_path / "long"), finished_run(tmp_path / "short")
    for seen in (1000, 3000):
        (short / f"08_reporting/sample_previews/preview_{seen:012d}.png").unlink()
    found = compare(runs_of(long, short))
    film = Image.open(io.BytesIO(found.film))
    assert (film.format, film.n_frames, film.info["loop"]) == ("WEBP", 3, 0)
    assert base64.b64encode(found.film).decode() in found.html
    (run,) = read(short)
    first, last = grid_at(run, 1000), grid_at(run, 9000)
    assert first.tobytes() == last.tobytes()  # the only one there is
    with Image.open(run.previews[2000]) as enlarged:
        small = np.asarray(first)
        scale = enlarged.width // first.width
        again = small.repeat(scale, axis=0).repeat(scale, axis=1)
        np.testing.assert_array_equal(again, np.asarray(enlarged.convert("RGB")))
    assert scale > 1


def test_without_previews_the_film_is_one_picture(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "a")
    for path in (folder / "08_reporting" / "sample_previews").iterdir():
        path.unlink()
    pictured = compare(runs_of(folder)).film
    (folder / "07_model_output" / "samples.npy").unlink()
    empty = compare(runs_of(folder)).film
    for film in (pictured, empty):
        assert getattr(Image.open(io.BytesIO(film)), "n_frames", 1) == 1
    assert pictured != empty
