"""W&B itself: begin a run with a key or without one, end it, and keep its files together."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ddpm_kedro.hooks.wandb_settings import Mode, WandbSettings, find_api_key

LOGGER = logging.getLogger(__name__)

X_AXIS = "images_seen"  # what every curve is drawn against
INIT_SECONDS = 15  # for a server that has answered once, beside the work
_FIXED: dict[str, Any] = {
    "silent": True,
    "init_timeout": INIT_SECONDS,
    "finish_timeout_raises": True,
    # No code, no console, no list of packages, no facts about the machine or its user.
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "console": "off",
    "host": "",
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}

# Nor W&B's reports about itself, which would delay the end where its server hangs.
_QUIET = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}


def is_installed() -> bool:
    """Whether W&B can be imported; if not, one line says so."""
    try:
        with _variables(_QUIET):  # read when wandb is imported, and by its service
            import wandb  # noqa: F401
    except ImportError:
        LOGGER.info("W&B is not installed (pip install wandb): this run is not recorded there")
    except Exception as error:  # a broken install must not end a run either
        LOGGER.warning("W&B cannot be imported, this run is not recorded there: %s", error)
    else:
        return True
    return False


def connect(settings: WandbSettings, mode: Mode | None) -> tuple[Mode, str | None]:
    """Online with its key where there is one and a server that answers at all, else offline: known
    within `init_timeout` seconds. `mode` is what the user asked for, None whatever is possible."""
    import wandb

    system = wandb.setup().settings
    if mode == "offline" or (mode is None and system.mode == "offline"):  # typed: `wandb offline`
        return "offline", None
    key = find_api_key(system.base_url, os.environ)
    if key is None and not os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        if mode == "online":
            gives = "`wandb login` or WANDB_API_KEY gives one; this run is recorded offline"
            LOGGER.warning("W&B: online was asked for, but there is no key: %s", gives)
        return "offline", None
    proxies = {name: getattr(system, f"{name}_proxy", None) for name in ("http", "https")}
    silence = why_silent(system.base_url, settings.init_timeout, proxies)
    if silence is not None:
        LOGGER.warning("W&B: going on offline, %s: %s", system.base_url, silence)
        return "offline", None
    return "online", key


def why_silent(
    base_url: str, seconds: float, proxies: Mapping[str, str | None] | None = None
) -> str | None:
    """Why the server at `base_url` does not answer within `seconds`, or None where it does.

    W&B itself tries again until its own time limit, even where nobody listens. Any answer counts,
    a refusal too; so does an error that W&B might not meet, as of certificates. `proxies`, by
    scheme, are used beside those of the environment.
    """
    question, kind = b'{"query": "{ __typename }"}', {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{base_url}/graphql", question, kind)
    asked = {scheme: proxy for scheme, proxy in (proxies or {}).items() if proxy}
    through = urllib.request.ProxyHandler({**urllib.request.getproxies(), **asked})
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        silence = None
        try:
            urllib.request.build_opener(through).open(request, timeout=seconds).close()
        except urllib.error.HTTPError as error:
            if error.code in (502, 503, 504):  # a gateway's, and nobody behind it
                silence = str(error)
        except Exception as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, OSError) and not isinstance(reason, ssl.SSLError):
                silence = str(reason)
        answers.put(silence)

    threading.Thread(target=ask, name="wandb-connect", daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return f"no answer within {seconds:g} s"


def begin(
    settings: WandbSettings,
    connection: tuple[Mode, str | None],
    folder: Path,
    config: Mapping[str, Any],
    group: str | None,
) -> Any:
    """W&B's run: online where `connection` says so and the server takes it, else offline.

    Its folder `wandb` is made in `folder`, where WANDB_DIR names no other; runs of one `group` are
    shown together. Raises whatever W&B raises when it cannot begin offline either.
    """
    import wandb

    mode, key = connection
    arguments = {
        "id": os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4),
        "dir": os.environ.get("WANDB_DIR") or str(folder),
        "project": os.environ.get("WANDB_PROJECT") or settings.project,
        "entity": os.environ.get("WANDB_ENTITY") or settings.entity,
        "group": os.environ.get("WANDB_RUN_GROUP") or group,
        "tags": settings.tags or None,
        "config": dict(config),
    }
    run = _begin_online(settings, key, arguments) if mode != "offline" else None
    run = run or wandb.init(**arguments, mode="offline", settings=_settings(settings))
    run.define_metric(X_AXIS)
    run.define_metric("*", step_metric=X_AXIS)
    if run.offline:
        LOGGER.info("W&B: recording offline; `wandb sync %s` uploads it", Path(run.dir).parent)
    else:
        LOGGER.info("W&B: recording at %s", run.url)
    return run


def _begin_online(settings: WandbSettings, key: str | None, arguments: Mapping[str, Any]) -> Any:
    """The online run, or None where the server cannot be reached or refuses the key."""
    import wandb

    try:
        return wandb.init(**arguments, mode="online", settings=_settings(settings, key))
    except Exception as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        LOGGER.warning("W&B: going on offline, the server did not take the run: %s", reason)
    wandb.teardown()
    for left_over in Path(arguments["dir"], "wandb").glob(f"run-*-{arguments['id']}"):
        shutil.rmtree(left_over, ignore_errors=True)
    return None


def _settings(settings: WandbSettings, api_key: str | None = None) -> Any:
    import wandb

    wanted = {**_FIXED, "finish_timeout": settings.finish_timeout}
    if api_key is not None:
        wanted["api_key"] = api_key
    # Older releases of wandb lack some of these settings and refuse what they do not know.
    known = wandb.Settings.model_fields
    return wandb.Settings(**{key: value for key, value in wanted.items() if key in known})


def end(run: Any, exit_code: int | None) -> None:
    """Finish the run and W&B's service, so that a later run of this process reads its own
    environment; a run that somebody else has open in this process keeps the service."""
    import wandb

    others = wandb.run is not None and wandb.run is not run
    try:
        run.finish(exit_code=exit_code)
    finally:
        if not others:
            wandb.teardown(exit_code)


def abandon() -> None:
    """Give up a service that hangs, so that the end of the process does not wait for it either:
    W&B takes its exit handler back before it begins to wait."""
    import wandb

    threading.Thread(target=wandb.teardown, name="wandb-teardown", daemon=True).start()
    time.sleep(0.5)


@contextlib.contextmanager
def environment(folder: Path) -> Iterator[None]:
    """W&B's own folders beside its runs instead of under the home folder, and no chatter.

    Offline artifacts wait in the data folder until they are uploaded. What the user has set stays.
    """
    wanted = {"WANDB_DATA_DIR": str(folder / "data"), "WANDB_CACHE_DIR": str(folder / "cache")}
    # os.path, since pathlib raises where the home folder may not be looked into.
    if not os.path.isdir(os.path.expanduser("~/.config/wandb")):
        wanted["WANDB_CONFIG_DIR"] = str(folder / "config")  # else the user's settings are read
    folder.mkdir(parents=True, exist_ok=True)
    with _variables({**_QUIET, **wanted}):
        yield


@contextlib.contextmanager
def _variables(wanted: Mapping[str, str]) -> Iterator[None]:
    added = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)
