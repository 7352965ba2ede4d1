"""A pipeline run and what W&B keeps of it: real offline runs, read back from their files."""

from __future__ import annotations

import builtins
import json
import logging
import os
import signal
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kedro.config import OmegaConfigLoader
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner
from PIL import Image
from wandb_reader import OfflineRun, offline_runs

from ddpm_kedro.errors import InputError, Stopped
from ddpm_kedro.files import Receipt
from ddpm_kedro.hooks.wandb_run import WandbHook
from ddpm_kedro.training.tracker import Tracker

SHIPPED = Path(__file__).parents[2] / "conf/base/wandb.yml"
FINGERPRINT = "0123456789abcdef"
PARAMETERS = {
    "optimizer": "sgd",
    "image_path": "/home/someone/photos",
    "raw_root": "elsewhere/raw",
    "optimizers": {"sgd": {"type": "torch.optim.SGD", "lr": 0.1}},
    "training": {
        "batch_size": 128,
        "max_minutes": None,
        "init_from": "model.safetensors",
        "optimizer": {"type": "torch.optim.SGD", "lr": 0.1},
        "distributed": {"workers": 1, "rendezvous": "node7:29500"},
    },
    "datasets": {"mine": {"type": "a.B", "somewhere": "~someone/x", "name": "CIFAR10"}},
}


class Project:
    """The little of a Kedro project that the hook sees: configuration, catalog, runner."""

    def __init__(self, folder: Path, **wandb: Any) -> None:
        self.folder = folder
        self.hook = WandbHook()
        self.tracker = Tracker()
        conf = folder / "conf/base"
        conf.mkdir(parents=True)
        (conf / "wandb.yml").write_text(SHIPPED.read_text())
        (conf / "parameters.yml").write_text(
            json.dumps({**PARAMETERS, "data_root": str(folder / "data")})
        )
        (folder / "conf/local").mkdir()
        (folder / "conf/local/wandb.yml").write_text(json.dumps(wandb))

    @property
    def runs(self) -> list[OfflineRun]:
        return offline_runs(self.folder / "data")

    @property
    def run(self) -> OfflineRun:
        (only,) = self.runs
        return only

    def catalog(self) -> DataCatalog:
        def marked(kind: str, **more: Any) -> MemoryDataset:
            return MemoryDataset(
                copy_mode="assign", metadata={"wandb": {"type": kind, **more}} if kind else None
            )

        return DataCatalog(
            {
                "train_images": marked("image"),
                "sample_grid": marked("image"),
                "model": marked("model", aliases=["latest", "best"]),
                "report": marked("artifact"),
                "metrics": marked("metrics"),
                "tracker": MemoryDataset(self.tracker, copy_mode="assign"),
                "seed": MemoryDataset(0),
            }
        )

    def kedro_run(
        self, *nodes: Any, catalog: DataCatalog | None = None, skipped: Collection[str] = ()
    ) -> None:
        """What a session does: context, before, the runner, after or error."""
        loader = OmegaConfigLoader(
            str(self.folder / "conf"),
            base_env="base",
            default_run_env="local",
            config_patterns={"wandb": ["wandb*"]},
        )
        manager = _create_hook_manager()
        manager.register(self.hook)
        manager.hook.after_context_created(
            context=SimpleNamespace(config_loader=loader, project_path=self.folder)
        )
        pipeline = Pipeline(nodes)
        catalog = catalog or self.catalog()
        facts = {
            "run_params": {"env": "smoke", "pipeline_names": ["training"]},
            "pipeline": pipeline,
            "catalog": catalog,
        }
        manager.hook.before_pipeline_run(**facts)
        try:
            left = [node for node in nodes if node.name not in skipped]
            result = left and SequentialRunner().run(Pipeline(left), catalog, manager)
        except Exception as error:
            manager.hook.on_pipeline_error(error=error, **facts)
            raise
        manager.hook.after_pipeline_run(run_result=result, **facts)


@pytest.fixture
def make_project(tmp_path, monkeypatch):
    """Projects without a key, without a home folder, and with W&B's own variables unset."""
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    return lambda **wandb: Project(tmp_path, **wandb)


def train(project: Project, fails: BaseException | None = None) -> Any:
    """A node that says what the training engine says, and returns a receipt for the model."""

    def body(images: Any, tracker: Tracker) -> Receipt:
        folder = project.folder / "data/06_models/checkpoints" / FINGERPRINT
        folder.mkdir(parents=True, exist_ok=True)
        tracker.note("fingerprint", FINGERPRINT)
        tracker.note("training", "is new")  # a parameter has this name too
        tracker.open(folder / "training_log.jsonl", after_step=0)
        for step in range(1, 6):
            loss = float("nan") if step == 3 else 1 / step
            tracker.record({"step": step, "images_seen": 128 * step, "loss": loss, "lr": 0.1})
        Image.new("L", (20, 20), 77).save(folder / "preview.png")
        tracker.preview(folder / "preview.png", {"step": 5, "images_seen": 640, "loss": 0.2})
        tracker.close()
        if fails is not None:
            raise fails
        (folder / "model.safetensors").write_bytes(b"weights")
        return Receipt(folder / "model.safetensors", {"images_seen": 640, "from": str(folder)})

    return node(body, ["train_images", "tracker"], "model", name="train")


def prepare() -> Any:
    images = (
        np.zeros((100, 1, 8, 8), np.uint8) + np.arange(100, dtype=np.uint8)[:, None, None, None]
    )
    return node(lambda seed: SimpleNamespace(images=images), "seed", "train_images", name="prepare")


def evaluate() -> Any:
    def body(model: Receipt) -> Any:
        metrics = {"frechet": {"samples": 1.5, "floor": 1.2}, "curve": [1, 2], "at": "/x/y"}
        report = model.path.with_name("report.html")
        report.write_text("<html></html>")
        return Image.new("RGB", (30, 30), (9, 8, 7)), metrics, Receipt(report)

    return node(body, "model", ["sample_grid", "metrics", "report"], name="evaluate")


@pytest.fixture
def finished(make_project):
    project = make_project()
    project.kedro_run(prepare(), train(project), evaluate())
    return project.run


def test_one_run_in_the_group_of_its_fingerprint(finished):
    assert finished.group == FINGERPRINT
    assert finished.project == "ddpm_kedro"
    assert finished.exit_code == 0
    assert finished.folder.parent.parts[-2:] == ("08_reporting", "wandb")


def test_config_is_all_parameters_but_paths(finished):
    config = {key: value for key, value in finished.config.items() if key != "_wandb"}
    assert config == {
        "optimizer": "sgd",
        "optimizers": {"sgd": {"type": "torch.optim.SGD", "lr": 0.1}},
        "training": {
            "batch_size": 128,
            "max_minutes": None,
            "optimizer": {"type": "torch.optim.SGD", "lr": 0.1},
            "distributed": {"workers": 1},
        },
        "datasets": {"mine": {"type": "a.B", "name": "CIFAR10"}},
        "kedro": {"env": "smoke", "pipelines": ["training"]},
        "fingerprint": FINGERPRINT,
        "facts": {"training": "is new"},
    }


def test_parameters_are_a_yaml_artifact_without_paths(finished):
    parameters = finished.parameters_artifact()
    assert parameters["training"]["optimizer"] == {"type": "torch.optim.SGD", "lr": 0.1}
    assert not {"data_root", "raw_root", "image_path"} & parameters.keys()


def test_history_is_against_images_seen(finished):
    rows = [row for row in finished.history if "loss" in row]
    assert [row["images_seen"] for row in rows] == [128, 256, 512, 640]
    assert [row["loss"] for row in rows] == [1, 1 / 2, 1 / 4, 1 / 5]
    assert {row["lr"] for row in rows} == {0.1}
    # The record whose loss was not finite is there with what it has.
    assert [row["step"] for row in finished.history if "lr" in row] == [1, 2, 3, 4, 5]
    assert finished.metrics["*"] == "images_seen"


def test_inputs_previews_and_samples_are_images(finished):
    (inputs,) = finished.images("train_images")
    pixels = np.asarray(Image.open(inputs))
    assert {0, 99} <= set(np.unique(pixels))  # spread over the whole set, both ends shown
    (preview,) = finished.images("samples")
    assert np.asarray(Image.open(preview)).tolist() == [[77] * 20] * 20
    (row,) = [row for row in finished.history if "samples" in row]
    assert (row["step"], row["images_seen"]) == (5, 640)
    (grid,) = finished.images("sample_grid")
    assert Image.open(grid).getpixel((0, 0)) == (9, 8, 7)


def test_model_and_report_are_artifacts_and_metrics_are_the_summary(finished):
    model = finished.artifacts[f"model-{FINGERPRINT}"]
    assert (model.type, set(model.aliases)) == ("model", {"latest", "best"})
    assert json.loads(model.metadata) == {"images_seen": 640}
    assert finished.artifact_file("model", "model.safetensors").read_bytes() == b"weights"
    assert finished.artifact_file("report", "report.html").read_text() == "<html></html>"
    assert finished.summary["metrics"] == {"frechet": {"samples": 1.5, "floor": 1.2}}


def test_nothing_of_the_machine_or_the_code_is_in_the_file(finished, tmp_path):
    data = finished.raw
    for artifact in finished.artifacts.values():  # offline, W&B must note where a file waits
        for entry in artifact.manifest.contents:
            assert entry.local_path.startswith(str(tmp_path))
            data = data.replace(entry.local_path.encode(), b"")
    for word in (str(tmp_path), "photos", "node7", "someone", "test_wandb"):
        assert word.encode() not in data, word
    assert finished.host == ""
    assert not {"environment", "stats", "output", "output_raw"} & set(finished.kinds)
    assert {artifact.type for artifact in finished.artifacts.values()} == {
        "parameters", "model", "report",
    }  # fmt: skip


def test_everything_lies_under_data_root_and_the_environment_is_as_before(make_project, tmp_path):
    before = dict(os.environ)
    project = make_project()
    project.kedro_run(prepare(), train(project))
    assert dict(os.environ) == before
    assert {path.name for path in tmp_path.iterdir()} == {"conf", "data"}
    waiting = project.run.artifact_file("model", "model.safetensors")
    assert waiting.is_relative_to(tmp_path / "data/08_reporting/wandb/data")


def test_a_failed_run_ends_with_1(make_project):
    project = make_project()
    with pytest.raises(RuntimeError, match="out of memory"):
        project.kedro_run(prepare(), train(project, RuntimeError("out of memory")))
    assert project.run.exit_code == 1
    assert len([row for row in project.run.history if "loss" in row]) == 4


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_stopped_and_saved_ends_with_its_code(make_project, signum):
    project = make_project()
    with pytest.raises(Stopped):
        project.kedro_run(prepare(), train(project, Stopped(signum)))
    assert project.run.exit_code == 128 + signum


@pytest.mark.parametrize("exit_code", [130, 143])
def test_an_interrupted_run_ends_with_its_code(make_project, exit_code):
    project = make_project()
    with pytest.raises(KeyboardInterrupt):
        project.kedro_run(prepare(), train(project, KeyboardInterrupt()))
    project.hook.on_interrupt(exit_code)
    project.hook.on_interrupt(exit_code)  # told twice, ended once
    assert project.run.exit_code == exit_code
    assert project.run.kinds.count("exit") == 1


def test_a_failure_before_training_is_a_failed_run_without_a_group(make_project):
    project = make_project()

    def fail(seed):
        raise ValueError("no such file")

    with pytest.raises(ValueError, match="no such file"):
        project.kedro_run(node(fail, "seed", "train_images"), train(project))
    assert (project.run.exit_code, project.run.group) == (1, "")


def test_stages_without_training_are_recorded_too(make_project):
    project = make_project()
    project.kedro_run(prepare())
    assert (project.run.exit_code, project.run.group) == (0, "")
    assert len(project.run.images("train_images")) == 1


def test_a_run_without_work_leaves_nothing(make_project):
    project = make_project()
    project.kedro_run(prepare(), train(project), skipped=("prepare", "train"))
    assert not (project.folder / "data").exists()


@pytest.mark.parametrize(
    ("card", "group"),
    [({"fingerprint": FINGERPRINT, "model": "x"}, FINGERPRINT), ({"model": "x"}, ""), (None, "")],
)
def test_a_run_that_skips_training_is_in_its_group(make_project, card, group, caplog):
    project = make_project()
    catalog = project.catalog()
    catalog["training_card"] = MemoryDataset(card)
    path = project.folder / "m" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    catalog["model"].save(Receipt(path))
    skipped = ("prepare", "train")
    project.kedro_run(prepare(), train(project), evaluate(), catalog=catalog, skipped=skipped)
    assert (project.run.exit_code, project.run.group) == (0, group)
    assert project.run.summary["metrics"] == {"frechet": {"samples": 1.5, "floor": 1.2}}
    assert project.tracker._sinks == []
    assert "training_card is not logged" not in caplog.text


def test_images_that_are_only_loaded_are_logged_once(make_project):
    project = make_project()
    catalog = project.catalog()
    catalog.save("train_images", np.zeros((3, 3, 8, 8), np.uint8))
    look = node(lambda images: 1, "train_images", "a", name="look")
    again = node(lambda images: 2, "train_images", "b", name="again")
    project.kedro_run(look, again, catalog=catalog)
    assert len(project.run.images("train_images")) == 1


def test_a_receipt_of_images_is_read_from_the_catalog(make_project):
    project = make_project()
    catalog = project.catalog()
    catalog.save("train_images", np.full((2, 1, 8, 8), 200, np.uint8))
    seen = {}

    class Published(MemoryDataset):
        def save(self, data: Any) -> None:
            seen["saved"] = data

    published = Published(metadata={"wandb": {"type": "image"}}, copy_mode="assign")
    published._data = np.full((2, 1, 8, 8), 200, np.uint8)
    catalog["train_images"] = published
    project.kedro_run(
        node(lambda seed: Receipt(Path("images.safetensors")), "seed", "train_images"),
        catalog=catalog,
    )
    assert isinstance(seen["saved"], Receipt)
    (picture,) = project.run.images("train_images")
    assert 200 in np.asarray(Image.open(picture))


def test_runs_of_one_process_do_not_mix(make_project):
    project = make_project()
    project.kedro_run(prepare(), train(project))
    project.kedro_run(prepare(), train(project))
    first, second = project.runs
    assert first.run_id != second.run_id
    assert [len(run.images("samples")) for run in project.runs] == [1, 1]
    assert [run.exit_code for run in project.runs] == [0, 0]
    assert project.tracker._sinks == []  # nor does a finished run keep listening


@pytest.mark.parametrize("name", ["WANDB_MODE", "wandb.yml"])
def test_disabled_leaves_nothing_and_does_not_import_wandb(make_project, monkeypatch, name):
    without_wandb(monkeypatch, AssertionError("wandb was imported"))
    if name == "WANDB_MODE":
        monkeypatch.setenv("WANDB_MODE", "disabled")
        project = make_project()
    else:
        project = make_project(mode="disabled", **shipped_but("mode"))
    project.kedro_run(prepare(), train(project))
    assert not (project.folder / "data/08_reporting").exists()


def test_without_wandb_one_line_says_so(make_project, monkeypatch, caplog):
    without_wandb(monkeypatch, ImportError("No module named 'wandb'"))
    project = make_project()
    with caplog.at_level(logging.INFO, "ddpm_kedro.hooks"):
        project.kedro_run(prepare(), train(project))
    assert [r.getMessage() for r in caplog.records if r.name.startswith("ddpm_kedro.hooks")] == [
        "W&B is not installed (pip install wandb): this run is not recorded there"
    ]
    assert not (project.folder / "data/08_reporting").exists()


def test_a_failure_of_wandb_is_one_warning_and_training_goes_on(make_project, monkeypatch, caplog):
    import wandb

    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError("the service is gone")

    project = make_project()
    monkeypatch.setattr(wandb.Run, "log", broken)
    project.kedro_run(prepare(), train(project))
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert warnings == ["W&B failed and records no more of this run: OSError: the service is gone"]
    log = project.folder / "data/06_models/checkpoints" / FINGERPRINT / "training_log.jsonl"
    assert len(log.read_text().splitlines()) == 5


def test_a_dataset_that_cannot_be_logged_spares_the_others(make_project, caplog):
    project = make_project()
    bad = node(lambda seed: "not a file", "seed", "report", name="bad")
    project.kedro_run(bad, prepare())
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert warnings == [
        "W&B: report is not logged: TypeError: MemoryDataset is no local file, so no artifact"
    ]
    assert len(project.run.images("train_images")) == 1


def test_an_unknown_mark_is_refused_before_any_work(make_project):
    project = make_project()
    catalog = project.catalog()
    catalog["train_images"] = MemoryDataset(metadata={"wandb": {"type": "video"}})
    with pytest.raises(InputError, match=r"train_images: metadata\.wandb\.type=video: choose"):
        project.kedro_run(prepare(), catalog=catalog)
    assert not (project.folder / "data").exists()


def test_variables_of_wandb_win(make_project, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "other")
    monkeypatch.setenv("WANDB_RUN_GROUP", "sweep")
    project = make_project()
    project.kedro_run(prepare(), train(project))
    assert (project.run.project, project.run.group) == ("other", "sweep")


def shipped_but(*keys: str) -> dict[str, Any]:
    """The shipped wandb.yml without some keys: plain Kedro replaces top-level keys only."""
    import yaml

    return {k: v for k, v in yaml.safe_load(SHIPPED.read_text()).items() if k not in keys}


def without_wandb(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    real_import = builtins.__import__

    def guarded(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "wandb" or name.startswith("wandb."):
            raise error
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)
