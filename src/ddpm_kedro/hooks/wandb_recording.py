"""One run in Weights & Biases: begun without a question, never in the way, always ended."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm_kedro.hooks import wandb_service as service
from ddpm_kedro.hooks.wandb_settings import Mode, WandbSettings

if TYPE_CHECKING:
    from PIL import Image

LOGGER = logging.getLogger(__name__)

_Action = Callable[[Any, Any], None]  # what to do with W&B's run and module

_GRACE_SECONDS = 10  # W&B does not always keep its own time limit


class Recording:
    """What a pipeline run says, told to W&B; also a sink of the training's `Tracker`.

    A thread of its own talks to W&B, so that a slow server or a dead service costs the training
    nothing, and the end waits for a bounded time only. The first failure is one warning; after it
    nothing more is sent, and nothing is ever raised.

    `mode` is what the user asked for; None is online where there is a key, else offline. W&B's
    files go below `folder`, in `wandb/`; `config` is free of paths. W&B fixes a run's group when it
    begins, and the group is the training's fingerprint, known only when training has its data. A
    recording that waits for it begins at `note("fingerprint", ...)`, at the first record or at the
    end, and keeps what it is told until then; the server is looked for meanwhile.
    """

    def __init__(
        self,
        settings: WandbSettings,
        mode: Mode | None,
        folder: Path,
        config: Mapping[str, Any],
        wait_for_fingerprint: bool = False,
    ) -> None:
        self._settings, self._mode = settings, mode
        self._folder, self._config = folder, dict(config)
        self._facts: dict[str, Any] = {}
        self._begun = threading.Event()
        self._actions: queue.SimpleQueue[_Action | None] = queue.SimpleQueue()
        self._talker = threading.Thread(target=self._talk, name="wandb-recording", daemon=True)
        self._exit_code: int | None = None
        self._has_failed = False
        self._environment = contextlib.ExitStack()
        self.fingerprint: str | None = None
        with self._failing_once():
            self._environment.enter_context(service.environment(folder / "wandb"))
        self._talker.start()
        if not wait_for_fingerprint:
            self._begun.set()

    def record(self, record: Mapping[str, Any]) -> None:
        """Log one record of training; what is None (was not finite) is left out."""
        row = {key: value for key, value in record.items() if value is not None}
        self._begun.set()
        self._actions.put(lambda run, _: run.log(row))

    def preview(self, path: Path, record: Mapping[str, Any]) -> None:
        """Log a picture of samples beside the record that it belongs to."""
        place = {key: record[key] for key in ("step", service.X_AXIS) if key in record}
        self._begun.set()
        self.image("samples", str(path), place)

    def note(self, key: str, value: Any) -> None:
        """Add what training says of itself, below `facts`; `fingerprint` is the group too."""
        fact = {key: value}
        if key == "fingerprint":
            self.fingerprint = str(value)
            self._begun.set()
        else:
            self._facts |= fact
            fact = {"facts": dict(self._facts)}
        self._actions.put(lambda run, _: run.config.update(fact, allow_val_change=True))

    def image(
        self, name: str, picture: Image.Image | str, place: Mapping[str, Any] | None = None
    ) -> None:
        """Log a picture, or the file of one, under `name`, at a `place` on the axes."""
        place = place or {}
        self._actions.put(lambda run, wandb: run.log({name: wandb.Image(picture), **place}))

    def file(
        self, name: str, path: Path, kind: str, aliases: Sequence[str], facts: Mapping[str, Any]
    ) -> None:
        """Log a file or folder as an artifact of type `kind`, which W&B copies: the original may be
        replaced. The fingerprint is added to `name`, so that versions are of one training; no
        `aliases` is `latest`; `facts` hold no paths."""

        def log(run: Any, wandb: Any) -> None:
            full_name = f"{name}-{self.fingerprint}" if self.fingerprint else name
            artifact = wandb.Artifact(full_name, type=kind, metadata=dict(facts))
            add = artifact.add_dir if path.is_dir() else artifact.add_file
            add(str(path))
            run.log_artifact(artifact, aliases=list(aliases) or ["latest"])

        self._actions.put(log)

    def text_file(self, name: str, file_name: str, kind: str, text: str) -> None:
        """Log `text` as the only file of an artifact."""

        def log(run: Any, wandb: Any) -> None:
            artifact = wandb.Artifact(name, type=kind)
            with artifact.new_file(file_name) as file:
                file.write(text)
            run.log_artifact(artifact)

        self._actions.put(log)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set values that runs are compared by."""
        self._actions.put(lambda run, _: run.summary.update(dict(values)))

    def finish(self, exit_code: int) -> None:
        """End the run, as finished where the `exit_code` of the whole command is 0, else as failed;
        a second call does nothing."""
        if self._exit_code is not None:
            return
        self._exit_code = exit_code
        self._begun.set()
        self._actions.put(None)
        with self._environment:
            self._talker.join(self._settings.finish_timeout + _GRACE_SECONDS)
            if self._talker.is_alive():
                kept = self._folder / "wandb"
                LOGGER.warning("W&B does not answer; `wandb sync` uploads what lies in %s", kept)
                self._has_failed = True
                service.abandon()

    def _talk(self) -> None:
        """The thread: find the server, begin when told, do what is asked in order, end."""
        run = None
        with self._failing_once():
            import wandb

            if not self._has_failed:
                connection = service.connect(self._settings, self._mode)
                self._begun.wait()
                run = service.begin(
                    self._settings, connection, self._folder, self._config, self.fingerprint
                )
        while (action := self._actions.get()) is not None:
            if not self._has_failed:
                with self._failing_once():
                    action(run, wandb)
        if run is None:
            return
        with self._failing_once():
            try:
                service.end(run, self._exit_code)
            except TimeoutError:
                rest = f"`wandb sync {Path(run.dir).parent}` does the rest"
                LOGGER.warning("W&B: not everything is uploaded; %s", rest)

    @contextlib.contextmanager
    def _failing_once(self) -> Iterator[None]:
        """Say once that W&B failed; from then on nothing is sent."""
        try:
            yield
        except Exception as error:
            if not self._has_failed:
                self._has_failed = True
                reason = str(error).partition("\n")[0] or "no message"
                name = type(error).__name__
                words = "W&B failed and records no more of this run: %s: %s"
                LOGGER.warning(words, name, reason)
