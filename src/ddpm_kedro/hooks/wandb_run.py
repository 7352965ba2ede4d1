"""One W&B run for each `kedro run`: which of Kedro's events become what in the record."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from kedro.framework.hooks import hook_impl
from PIL import Image

from ddpm_kedro.errors import InputError, Stopped
from ddpm_kedro.files import Receipt
from ddpm_kedro.hooks.stage_lines import path_of
from ddpm_kedro.hooks.wandb_recording import Recording
from ddpm_kedro.hooks.wandb_service import is_installed
from ddpm_kedro.hooks.wandb_settings import WandbSettings, numbers, recorded
from ddpm_kedro.images.grid import make_grid
from ddpm_kedro.images.rows import spread

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext

LOGGER = logging.getLogger(__name__)

_TRACKER, _CARD = "tracker", "training_card"
_MARKS = ("image", "model", "metrics", "artifact")


class WandbHook:
    """Records pipeline runs in Weights & Biases, as conf/*/wandb.yml says (docs/wandb.md).

    What is logged of a dataset stands in the catalog, as in `metadata: {wandb: {type: image}}`. An
    image is logged when it is first saved or loaded, all else when it is saved. W&B's run begins
    with the first node, so a run in which nothing has changed leaves nothing there.
    """

    def __init__(self) -> None:
        self._context: KedroContext | None = None
        self._catalog: Any = None
        self._begin: Callable[[], None] | None = None  # until the first node starts
        self._lock = threading.Lock()  # nodes may start at once
        self._after_training: set[str] = set()  # nodes that work on what training made
        self._recording: Any = None  # a Recording while a run is recorded
        self._tracker: Any = None
        self._num_images = 0
        self._seen_images: set[str] = set()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._context = context

    @hook_impl(trylast=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Any, catalog: Any) -> None:
        """Get ready to begin a run, unless it is disabled; InputError where conf asks for what
        there is not."""
        self._end(1)  # of a session in this process whose end Kedro never told
        if self._context is None:
            return
        config_loader = self._context.config_loader
        settings = WandbSettings.from_config(config_loader["wandb"])
        mode = settings.asked_mode(os.environ)
        _check_marks(catalog, pipeline)
        if mode == "disabled":
            return
        tree = config_loader["parameters"]
        parameters = recorded(tree, settings.recorded_texts)
        names = run_params.get("pipeline_names") or ["__default__"]
        kedro = {
            "env": run_params.get("env") or getattr(config_loader, "env", None),
            "pipelines": list(names),
        }
        folder = Path(self._context.project_path) / tree.get("data_root", "data") / "08_reporting"
        self._catalog, self._num_images, self._seen_images = catalog, settings.num_images, set()
        trains = _TRACKER in pipeline.inputs()
        made = pipeline.from_inputs(_TRACKER).nodes if trains else []
        self._after_training = {node.name for node in made if _TRACKER not in node.inputs}

        def begin() -> None:
            if not is_installed():
                return
            config = {**parameters, "kedro": kedro}
            recording = Recording(settings, mode, folder, config, wait_for_fingerprint=trains)
            text = yaml.safe_dump(parameters, sort_keys=False, allow_unicode=True)
            recording.text_file("parameters", "parameters.yml", "parameters", text)
            self._recording = recording
            if trains:
                with _spared(_TRACKER):
                    tracker = catalog.load(_TRACKER)
                    tracker.attach(recording)
                    self._tracker = tracker

        self._begin = begin

    @hook_impl
    def before_dataset_loaded(self, node: Any) -> None:
        """Begin with the first node; where training was skipped, its card knows the group."""
        with self._lock:
            begin, self._begin = self._begin, None
            if begin is not None:
                begin()
            unknown = self._recording is not None and self._recording.fingerprint is None
            if unknown and node.name in self._after_training:
                self._after_training = set()
                with _spared(_CARD):
                    card = self._catalog.load(_CARD) or {}
                    if "fingerprint" in card:  # no imported model has one
                        self._recording.note("fingerprint", card["fingerprint"])

    before_node_run = before_dataset_loaded  # of a node without inputs

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str, data: Any) -> None:
        if self._recording is not None:
            self._log(dataset_name, data, ("image",))

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        if self._recording is not None:
            self._log(dataset_name, data, _MARKS)

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._end(0)

    @hook_impl(tryfirst=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """End the run as failed, or as stopped where training saved itself after a signal."""
        self._end(error.exit_code if isinstance(error, Stopped) else 1)

    def on_interrupt(self, exit_code: int) -> None:
        """End the run after Ctrl-C (130) or SIGTERM (143), of which our session tells us."""
        self._end(exit_code)

    def _end(self, exit_code: int) -> None:
        self._begin = None
        recording, self._recording = self._recording, None
        tracker, self._tracker = self._tracker, None
        self._catalog = None
        if recording is None:
            return
        if tracker is not None:
            tracker.detach(recording)
        recording.finish(exit_code)

    def _log(self, name: str, data: Any, kinds: Collection[str]) -> None:
        """Log what was loaded or saved if its mark is one of `kinds`."""
        mark = _mark(self._catalog, name)
        if mark.get("type") not in kinds:
            return
        with _spared(name):
            if mark["type"] == "image":
                self._log_image(name, data)
            elif mark["type"] == "metrics":
                metrics = data if isinstance(data, Mapping) else self._catalog.load(name)
                self._recording.summary({name: numbers(metrics)})
            else:
                path, facts = path_of(self._catalog[name]), {}
                if isinstance(data, Receipt):
                    path, facts = data.path, numbers(data.facts)
                if path is None:
                    kind = type(self._catalog[name]).__name__
                    raise TypeError(f"{kind} is no local file, so no artifact")
                kind = "model" if mark["type"] == "model" else name
                self._recording.file(name, path, kind, mark.get("aliases", ()), facts)

    def _log_image(self, name: str, data: Any) -> None:
        if name in self._seen_images:
            return
        self._seen_images.add(name)
        picture = _picture(data, self._num_images)
        if picture is None:  # a receipt, say: what it stands for is in the catalog
            picture = _picture(self._catalog.load(name), self._num_images)
        if picture is None:
            raise TypeError(f"{name} is marked as an image, but is a {type(data).__name__}")
        self._recording.image(name, picture)


def _check_marks(catalog: Any, pipeline: Any) -> None:
    """InputError before any work where `metadata: {wandb: ...}` has a type that is not known."""
    for name in sorted(pipeline.datasets()):
        mark = _mark(catalog, name)
        if mark and mark.get("type") not in _MARKS:
            raise InputError(
                f"catalog: {name}: metadata.wandb.type={mark.get('type')}: "
                f"choose one of {', '.join(_MARKS)}"
            )


def _mark(catalog: Any, name: str) -> Mapping[str, Any]:
    dataset = catalog.get(name) if name in catalog else None
    metadata = getattr(dataset, "metadata", None) or {}
    return metadata.get("wandb") or {}


@contextlib.contextmanager
def _spared(name: str) -> Iterator[None]:
    """What cannot be logged is one warning, and the run goes on."""
    try:
        yield
    except Exception as error:
        LOGGER.warning("W&B: %s is not logged: %s: %s", name, type(error).__name__, error)


def _picture(data: Any, num_images: int) -> Image.Image | None:
    """A picture of `data`, or None where it is neither one nor a batch of images, uint8 (N, C, H,
    W), of which those shown are spread evenly over the whole."""
    if isinstance(data, Image.Image):
        return data
    batch = getattr(data, "images", data)
    is_batch = isinstance(batch, np.ndarray) and batch.ndim == 4
    return make_grid(spread(batch, num_images)) if is_batch else None
