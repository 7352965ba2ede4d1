"""What `conf/*/wandb.yml` may say, what may leave the machine, and whether a run is recorded."""

from __future__ import annotations

import contextlib
import netrc
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from ddpm_kedro.errors import InputError
from ddpm_kedro.parameters import CLOSED, read
from ddpm_kedro.ranges import Count, Positive, text

Mode = Literal["online", "offline", "disabled"]
_WITHHELD = object()

# The values that W&B itself takes in WANDB_MODE, old spellings included
_MODES: dict[str, Mode] = {"run": "online", "shared": "online", "dryrun": "offline"}
_MODES |= {mode: mode for mode in get_args(Mode)}


@dataclass(frozen=True)
class WandbSettings:
    """The keys of wandb.yml; what they mean stands beside them in conf/base/wandb.yml."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    mode: Literal["auto", "online", "offline", "disabled"]
    project: Annotated[str, text(".+", "input should be a name")]
    entity: str | None
    tags: list[str]
    init_timeout: Positive
    finish_timeout: Positive
    num_images: Count
    recorded_texts: list[str]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> WandbSettings:
        """Check what the layers of wandb.yml make together; InputError in one line names the key
        and what is wrong with it."""
        try:
            return read(cls, config)
        except InputError as error:
            raise InputError(f"wandb.yml: {error}") from error

    def asked_mode(self, environ: Mapping[str, str]) -> Mode | None:
        """The mode that the user asked for, or None for whatever is possible.

        WANDB_MODE in `environ` wins over wandb.yml; InputError where it is none of W&B's modes.
        """
        if environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
            return "disabled"
        said = environ.get("WANDB_MODE", "").lower()
        if said and said not in _MODES:
            raise InputError(f"WANDB_MODE={said}: choose one of online, offline, disabled")
        return _MODES.get(said or self.mode)  # auto is none of them


def recorded(tree: Any, texts: Collection[str], key: str = "") -> Any:
    """What of `tree` may leave the machine, nested as it was.

    Numbers, truth values and null may, and texts under the keys in `texts`: what a text of another
    parameter says, a path or the address of a machine, nobody here knows.
    """
    if isinstance(tree, Mapping):
        kept = {str(name): recorded(value, texts, str(name)) for name, value in tree.items()}
        return {name: value for name, value in kept.items() if value is not _WITHHELD}
    if isinstance(tree, list | tuple):
        return [each for value in tree if (each := recorded(value, texts, key)) is not _WITHHELD]
    plain = isinstance(tree, bool | int | float | None) or (isinstance(tree, str) and key in texts)
    return tree if plain else _WITHHELD


def numbers(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers and truth values of `tree`, nested as they were; curves are left out."""
    return {
        str(key): numbers(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if isinstance(value, Mapping | bool | int | float)
    }


def find_api_key(base_url: str, environ: Mapping[str, str]) -> str | None:
    """The key of the W&B server at `base_url`: WANDB_API_KEY, else the server's entry in netrc.

    W&B would look in the same places and then ask on the terminal; a run must not ask.
    """
    if environ.get("WANDB_API_KEY"):
        return environ["WANDB_API_KEY"]
    host = urlsplit(base_url).netloc
    for name in [environ["NETRC"]] if environ.get("NETRC") else ["~/.netrc", "~/_netrc"]:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            entry = netrc.netrc(Path(os.path.expanduser(name))).hosts.get(host)
            if entry is not None and entry[2]:
                return entry[2]
    return None
