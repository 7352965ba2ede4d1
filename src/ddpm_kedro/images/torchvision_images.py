"""Any image classification set of torchvision, by its class name."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ddpm_kedro.content import files_below
from ddpm_kedro.errors import InputError, one_line
from ddpm_kedro.images.idx import idx_pairs
from ddpm_kedro.images.source import ImageSource, Pixels, RawImage, SplitInfo, file_facts
from ddpm_kedro.locks import FileLock

SPLIT_VALUES = {
    "train": ("train", "trainval", "train-standard"),
    "test": ("test", "val", "valid"),
}


class TorchvisionImages(ImageSource):
    """`torchvision.datasets.<name>`, such as `CIFAR10`: files that lie below `path`, torchvision's
    `root`, are used as they are, others are downloaded there.

    `arguments` are more arguments of the class, such as `{split: balanced}` of EMNIST; `train` and
    `test` those that choose a split. Where they are None, `train=True` or `split=...` is found, or
    it is taken that there is no test split. In `idx_folders` the IDX files of MNIST and its
    relatives may lie already.
    """

    def __init__(
        self,
        name: str,
        path: str | os.PathLike[str],
        arguments: Mapping[str, Any] | None = None,
        train: Mapping[str, Any] | None = None,
        test: Mapping[str, Any] | None = None,
        idx_folders: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.path = Path(path).expanduser()
        self.arguments = dict(arguments or {})
        self.idx_folders = [Path(folder) for folder in idx_folders]
        self.train = None if train is None else dict(train)
        self.test = None if test is None else dict(test)
        self._open_split: tuple[str, Any] | None = None

    @cached_property
    def _class(self) -> Any:
        import torchvision

        found = getattr(torchvision.datasets, self.name, None)
        if not inspect.isclass(found):
            wrong, known = str(self.name).lower(), torchvision.datasets.__all__
            near = ", ".join(name for name in known if name.lower() == wrong)
            hint = f"did you mean {near}?" if near else "CIFAR10, FashionMNIST and SVHN are some"
            raise InputError(f"torchvision has no dataset {self.name}; {hint}")
        return found

    @cached_property
    def _parameters(self) -> set[str]:
        """Argument names of the class, and of its bases where it passes `**kwargs` on."""
        names: set[str] = set()
        for base in self._class.__mro__:
            if "__init__" not in vars(base):
                continue
            parameters = inspect.signature(base.__init__).parameters.values()
            names |= {parameter.name for parameter in parameters}
            if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
                break
        return names

    def _dataset(self, split: str) -> Any:
        """The split's torchvision dataset; None where there is no such split."""
        if self._open_split is None or self._open_split[0] != split:
            self._open_split = None  # one split at a time: many hold all their pixels in memory
            self._open_split = (split, self._construct(split))
        return self._open_split[1]

    def _construct(self, split: str) -> Any:
        from torchvision.datasets import MNIST

        chosen = getattr(self, split)
        if chosen is not None:
            return self._call(dict(chosen))
        if issubclass(self._class, MNIST) and not self.arguments:
            folder = self.path / self.name
            places = [*self.idx_folders, folder / "raw", folder, self.path]
            if (pairs := idx_pairs(places, split)) is not None:
                return pairs
        if "train" in self._parameters:
            return self._call({"train": split == "train"})
        if "split" not in self._parameters or "split" in self.arguments:
            return self._call({}) if split == "train" else None
        refusal: Exception | None = None
        for value in SPLIT_VALUES[split]:
            try:
                return self._call({"split": value})
            except _UnknownValue as error:
                refusal = error
        if split == "test":
            return None
        raise InputError(f"{refusal}; choose one as train: {{split: ...}}")

    def _call(self, choice: dict[str, Any]) -> Any:
        arguments = {**self.arguments, **choice}
        if "root" in self._parameters:
            arguments["root"] = str(self.path)
        try:
            return self._class(**arguments)
        except (RuntimeError, FileNotFoundError) as error:
            missing = error
        except (TypeError, ValueError, ImportError) as error:
            self._refuse(error, arguments)
        if "download" not in self._parameters:
            raise InputError(
                f"{self.name} is not below {self.path}, and torchvision cannot download it: "
                f"{one_line(missing)}"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Its progress bar and notices do not belong between ours.
            with (
                FileLock(self.path / f".{self.name}.lock", work=f"downloading {self.name}"),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                return self._class(**arguments, download=True)
        except (TypeError, ValueError) as error:
            self._refuse(error, arguments)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{self.name} is not below {self.path} and cannot be downloaded "
                f"({one_line(error)}): put its files there, or set raw_root to where they are"
            ) from error

    def _refuse(self, error: Exception, arguments: Mapping[str, Any]) -> NoReturn:
        if isinstance(error, ValueError) and "for argument split" in str(error):
            raise _UnknownValue(f"torchvision's {self.name}: {one_line(error)}") from error
        raise InputError(f"torchvision's {self.name}({arguments}): {one_line(error)}") from error

    @cached_property
    def _overview(self) -> dict[str, tuple[int, str | None]]:
        """For each split its number of images and a hash of all that are held in memory."""
        found = ((split, self._dataset(split)) for split in ("train", "test"))
        return {split: (len(data), _pixel_hash(data)) for split, data in found if data is not None}

    def splits(self) -> dict[str, SplitInfo]:
        return {split: SplitInfo(number) for split, (number, _) in self._overview.items()}

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        names = getattr(self._class, "classes", None)
        if names is None:
            names = getattr(self._dataset("train"), "classes", None)
        # ImageNet gives a tuple of synonyms for each class.
        joined = (name if isinstance(name, str) else ", ".join(name) for name in names or ())
        return tuple(joined) or None

    def read(self, split: str) -> Iterator[RawImage]:
        dataset = self._dataset(split)
        for index in range(len(dataset)):
            yield RawImage(f"{self.name} {split}[{index}]", partial(_item, dataset, index))

    def facts(self) -> dict[str, Any]:
        facts = {
            "name": self.name,
            "arguments": [self.arguments, self.train, self.test],
            "splits": self._overview,
        }
        if all(pixels for _, pixels in self._overview.values()):
            return facts
        # To decode all would take as long as to prepare them. Which files are its own nobody says,
        # so those of other sets below the folder count too.
        files = sorted(map(self.path.joinpath, files_below(self.path)))
        return {**facts, **file_facts(files, self.path, self.name)}


class _UnknownValue(InputError):
    """torchvision does not know this value of `split`."""


def _item(dataset: Any, index: int) -> tuple[Pixels, int | None]:
    pixels, label = dataset[index]
    return pixels, int(label) if isinstance(label, int | np.integer) else None


def _pixel_hash(dataset: Any) -> str | None:
    """Over all images and labels; None where they are not held in memory."""
    if not isinstance(dataset, list) and not hasattr(getattr(dataset, "data", None), "__array__"):
        return None
    hasher = hashlib.sha256()
    for index in range(len(dataset)):
        pixels, label = _item(dataset, index)
        hasher.update(np.asarray(pixels).tobytes() + str(label).encode())
    return hasher.hexdigest()
