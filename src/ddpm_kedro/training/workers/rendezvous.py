"""Where the machines of one training meet, and by which address each of them is reached.

torch answers both with the machine's own name. That fails where the name stands for a loopback
address (Debian's /etc/hosts) or for none (containers, network namespaces). So here both follow from
the one address that every machine was given.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import sys
import time
from pathlib import Path

from torch.distributed import TCPStore

from ddpm_kedro.errors import InputError

RETRY_SECONDS = 0.5
_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


def meet(endpoint: str, wait_seconds: float) -> tuple[str, TCPStore | None]:
    """Open the meeting place where it is this machine's, else wait until it answers.

    Returns the address by which the other machines reach this one, and what keeps the place open as
    long as it lives. Of several runs on its machine one opens it. InputError where the host's name
    was not found, or nobody answered in time.
    """
    deadline, store = time.monotonic() + wait_seconds, None
    host, port = host_and_port(endpoint)
    while True:
        try:
            address, target = way_to(endpoint)
            if store is None and _is_here(address, target):
                options = dict(is_master=True, wait_for_workers=False, multi_tenant=True)
                with contextlib.suppress(RuntimeError):  # the port is taken: by another run's
                    store = TCPStore(host, port, **options)
            socket.create_connection((host, port), timeout=5).close()
            return address, store
        except OSError as error:
            if time.monotonic() >= deadline:
                raise InputError(
                    f"training.distributed.rendezvous={endpoint}: no answer within "
                    f"{wait_seconds / 60:g} minutes ({error.strerror or error}); start the run on "
                    "that machine too, and let the others reach its port"
                ) from None
        time.sleep(RETRY_SECONDS)


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Of `host:port`, where host is a name, an IPv4 address or an IPv6 one in brackets."""
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port)


def way_to(endpoint: str) -> tuple[str, str]:
    """This machine's address on the way to `endpoint`, and that one's; nothing is sent. An OSError
    says that the name was not found, or that there is no way."""
    found = socket.getaddrinfo(*host_and_port(endpoint), type=socket.SOCK_DGRAM)
    family, kind, protocol, _, target = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0]), str(target[0])


def _is_here(address: str, target: str) -> bool:
    """Whether the way to `target` ends where it starts: the host is this machine."""
    return ipaddress.ip_address(address).is_loopback or target == address


def interface_of(address: str) -> str | None:
    """The network interface whose (first) address this is, IPv4 or IPv6; None where none was found,
    and on other systems than Linux."""
    if sys.platform != "linux":
        return None
    wanted = ipaddress.ip_address(address).packed
    if len(wanted) == 16:
        lines = map(str.split, Path("/proc/net/if_inet6").read_text().splitlines())
        return next((line[-1] for line in lines if bytes.fromhex(line[0]) == wanted), None)
    import fcntl  # not everywhere

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no address
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                if answer[20:24] == wanted:
                    return name
    return None
