"""Where machines meet, tried on the loopback interface."""

from __future__ import annotations

import socket
import sys

import pytest
from torch.distributed import TCPStore

from ddpm_kedro.errors import InputError
from ddpm_kedro.training.workers import rendezvous
from ddpm_kedro.training.workers.rendezvous import host_and_port, interface_of, meet


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_machine_that_is_named_keeps_the_meeting_place(host: str, free_port: int) -> None:
    address, _open = meet(f"{host}:{free_port}", wait_seconds=30)
    assert address in ("127.0.0.1", "::1")
    again, _also_open = meet(f"{host}:{free_port}", wait_seconds=30)
    assert again == address  # finds the port taken, and joins
    guest = TCPStore(host, free_port, is_master=False, multi_tenant=True)
    guest.set("came", "guest")
    assert guest.get("came") == b"guest"


def test_a_machine_that_is_not_there_is_waited_for_and_named(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "_is_here", lambda address, target: False)
    with pytest.raises(InputError, match=rf"127\.0\.0\.1:{free_port}: no answer within 0 minutes"):
        meet(f"127.0.0.1:{free_port}", wait_seconds=0.0)


def test_a_name_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InputError, match=r"nowhere:29400: .*Name or service not known"):
        meet("nowhere:29400", wait_seconds=0.0)


def test_host_and_port_of_an_ipv6_address() -> None:
    assert host_and_port("[fd00::7]:29400") == ("fd00::7", 29400)


@pytest.mark.skipif(sys.platform != "linux", reason="interfaces are looked up on Linux")
def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.250") is None  # for documentation, RFC 5737: nobody's
    assert interface_of("2001:db8::250") is None
