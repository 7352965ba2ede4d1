"""The catalog's handle on what training says: ``tracker``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

if TYPE_CHECKING:
    from ddpm_kedro.training.tracker import Tracker


class TrackerDataset(AbstractDataset):
    """Loads as one live ``Tracker``, the same at every load, so that a hook can attach sinks to it.

    Args:
        metadata: for plugins.
    """

    _SINGLE_PROCESS = True

    def __init__(self, *, metadata: dict[str, Any] | None = None) -> None:
        self._tracker: Tracker | None = None
        self.metadata = metadata

    def load(self) -> Tracker:
        """The tracker, made at the first load."""
        if self._tracker is None:
            from ddpm_kedro.training.tracker import Tracker

            self._tracker = Tracker()
        return self._tracker

    def save(self, data: Any) -> NoReturn:
        """Not possible.

        Raises:
            DatasetError: always.
        """
        raise DatasetError("tracker is a handle: a node takes it as an input and speaks to it")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {}
