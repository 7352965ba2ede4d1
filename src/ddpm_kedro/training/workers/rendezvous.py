"""Where the machines of one training meet, and by which address each of them is reached.

torch answers both with the machine's own name. That fails where the name stands for a loopback
address (Debian's /etc/hosts) or for none (containers, network namespaces). So here both follow from
the one address that every machine was given.
"""

from __future__ import annotations

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


class Rendezvous:
    """The endpoint ``host:port`` as seen from this machine.

    Args:
        endpoint: ``host:port``; host is a name, an IPv4 address or an IPv6 one in brackets.
        wait_seconds: how long :meth:`meet` waits for the machine that keeps the meeting place.
    """

    def __init__(self, endpoint: str, wait_seconds: float) -> None:
        host, _, port = endpoint.rpartition(":")
        self.endpoint = endpoint
        self.host, self.port = host.strip("[]"), int(port)
        self.wait_seconds = wait_seconds
        self._store: TCPStore | None = None

    def meet(self) -> str:
        """Open the meeting place where it is this machine's, else wait until it answers.

        It stays open as long as this object lives. Of several runs on its machine one opens it.

        Returns:
            the address by which the other machines reach this one.

        Raises:
            InputError: the host's name was not found, or nobody answered in time.
        """
        deadline = time.monotonic() + self.wait_seconds
        while True:
            try:
                address = self.own_address()
                if self._is_here(address):
                    self._open()
                socket.create_connection((self.host, self.port), timeout=5).close()
                return address
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise InputError(
                        f"training.distributed.rendezvous={self.endpoint}: no answer within "
                        f"{self.wait_seconds / 60:g} minutes ({error.strerror or error}); start "
                        "the run on that machine too, and let the others reach its port"
                    ) from None
            time.sleep(RETRY_SECONDS)

    def own_address(self) -> str:
        """This machine's address on the way to the host; nothing is sent.

        Raises:
            OSError: the name was not found, or there is no way.
        """
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, target = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])

    def _is_here(self, address: str) -> bool:
        """Whether the host is this machine: the way to oneself starts where it ends."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)
        return ipaddress.ip_address(address).is_loopback or found[0][4][0] == address

    def _open(self) -> None:
        if self._store is None:
            try:
                self._store = TCPStore(
                    self.host, self.port, is_master=True, wait_for_workers=False, multi_tenant=True
                )
            except RuntimeError:  # the port is taken: by the meeting place, one hopes
                return


def interface_of(address: str) -> str | None:
    """The name of the network interface whose (first) address this is.

    Args:
        address: IPv4 or IPv6.

    Returns:
        None where none was found, and on other systems than Linux.
    """
    if sys.platform != "linux":
        return None
    wanted = ipaddress.ip_address(address)
    if wanted.version == 6:
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, *_, name = line.split()
            if bytes.fromhex(digits) == wanted.packed:
                return name
        return None
    import fcntl  # not everywhere

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # no address
                continue
            if answer[20:24] == wanted.packed:
                return name
    return None
