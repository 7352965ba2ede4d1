"""What `conf/*/wandb.yml` may say, and whether a run is online, offline or not recorded at all."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddpm_kedro.errors import InputError

Mode = Literal["online", "offline", "disabled"]
Seconds = Annotated[float, Field(gt=0)]

# The values that W&B itself takes in WANDB_MODE, old spellings included.
_MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


class WandbSettings(BaseModel):
    """The keys of wandb.yml; what they mean stands beside them in conf/base/wandb.yml."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    mode: Literal["auto", "online", "offline", "disabled"]
    project: Annotated[str, Field(min_length=1)]
    entity: str | None
    tags: list[str]
    init_timeout: Seconds
    finish_timeout: Seconds
    num_images: Annotated[int, Field(ge=1)]
    hidden_parameters: list[str]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> WandbSettings:
        """Check what the layers of wandb.yml make together.

        Raises:
            InputError: one line naming the key and what is wrong with it.
        """
        try:
            return cls.model_validate(dict(config))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            given = "" if first["type"] == "missing" else f"={first['input']}"
            raise InputError(f"wandb.yml: {key}{given}: {first['msg']}") from error

    def asked_mode(self, environ: Mapping[str, str]) -> Mode | None:
        """The mode that the user asked for, or None for whatever is possible.

        Args:
            environ: the environment; WANDB_MODE in it wins over wandb.yml.

        Raises:
            InputError: WANDB_MODE is none of W&B's modes.
        """
        if environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
            return "disabled"
        said = environ.get("WANDB_MODE", "").lower()
        if said and said not in _MODES:
            raise InputError(f"WANDB_MODE={said}: choose one of online, offline, disabled")
        if said:
            return _MODES[said]
        return None if self.mode == "auto" else self.mode


def find_api_key(base_url: str, environ: Mapping[str, str]) -> str | None:
    """The key of the W&B server at ``base_url``: WANDB_API_KEY, else the server's entry in netrc.

    W&B would look in the same places and then ask on the terminal; a run must not ask.

    Args:
        base_url: such as ``https://api.wandb.ai``.
        environ: the environment; NETRC in it names another netrc file.
    """
    if environ.get("WANDB_API_KEY"):
        return environ["WANDB_API_KEY"]
    host = urlsplit(base_url).netloc
    names = [environ["NETRC"]] if environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for name in names:
        try:
            entry = netrc.netrc(Path(os.path.expanduser(name))).hosts.get(host)
        except (OSError, netrc.NetrcParseError):
            continue
        if entry is not None and entry[2]:
            return entry[2]
    return None
