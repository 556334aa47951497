"""Hosts of a test's own, in network namespaces, joined by veth pairs: a client, a router, two servers.

    client  c0 10.90.1.2 ── 10.90.1.1 r0  router  r1 10.90.2.1 ── 10.90.2.2 s0  server
            c1 fe80::c ──────────────────────────────── fe80::1 n0  neighbour
            c0 fe80::c ── fe80::1 r0

A process holds sockets in several namespaces: one belongs to the namespace it was made in (`man 2 setns`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

from loopback_kit import Server, assert_idle, echo

import udpguard

CLIENT_TO_ROUTER: Final = "10.90.1.1"
SERVER: Final = "10.90.2.2"
NOBODY: Final = "10.90.2.99"
FORBIDDEN: Final = "10.90.3.1"
LINK_LOCAL: Final = "fe80::1"

_HOSTS: Final = ("client", "router", "server", "neighbour")
_CLONE_NEWNET: Final = 0x4000_0000


def why_not() -> str | None:
    """Why there can be no such hosts; None where there can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "needs root to make network namespaces"
    if shutil.which("ip") is None:
        return "ip (iproute2) is not installed"
    name = f"udpguard-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return None


class Networks:
    """The hosts; `close` removes them."""

    def __init__(self) -> None:
        self._names = {host: f"udpguard-{os.getpid()}-{host}" for host in _HOSTS}
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._library = ctypes.CDLL(None, use_errno=True)
        try:
            for name in self._names.values():
                _run("ip", "netns", "add", name)
            self._join("client", "c0", "router", "r0")
            self._join("router", "r1", "server", "s0")
            self._join("client", "c1", "neighbour", "n0")
            for host, command in (
                ("client", "addr add 10.90.1.2/24 dev c0"),
                ("router", "addr add 10.90.1.1/24 dev r0"),
                ("router", "addr add 10.90.2.1/24 dev r1"),
                ("server", "addr add 10.90.2.2/24 dev s0"),
                ("client", "route add default via 10.90.1.1"),
                ("server", "route add default via 10.90.2.1"),
                ("router", "route add prohibit 10.90.3.0/24"),
                ("client", "addr add fe80::c/64 dev c0 nodad"),
                ("client", "addr add fe80::c/64 dev c1 nodad"),
                ("router", "addr add fe80::1/64 dev r0 nodad"),
                ("neighbour", "addr add fe80::1/64 dev n0 nodad"),
            ):
                self.ip(host, *command.split())
            # A host that is gone is noticed after one question in 50 ms instead of three in a second each.
            self.write("router", "net/ipv4/ip_forward", "1")
            self.write("router", "net/ipv4/neigh/r1/retrans_time_ms", "50")
            self.write("router", "net/ipv4/neigh/r1/mcast_solicit", "1")
            self.write("router", "net/ipv4/icmp_ratelimit", "0")
        except BaseException:
            self.close()
            raise

    def _join(self, one: str, its: str, other: str, others: str) -> None:
        self.ip(one, "link", "add", its, "type", "veth", "peer", "name", others, "netns", self._names[other])
        for host, link in ((one, its), (other, others)):
            self.ip(host, "link", "set", link, "addrgenmode", "none")  # no other link-local address than ours
            self.ip(host, "link", "set", link, "up")
            self.ip(host, "link", "set", "lo", "up")

    def ip(self, host: str, *command: str) -> str:
        """Run ip on a host; returns what it prints."""
        return _run("ip", "-n", self._names[host], *command)

    def is_up(self, host: str, link: str) -> bool:
        """Whether a host takes a link to be up; that the other end is down it learns a moment later."""
        return "state UP" in self.ip(host, "link", "show", link)

    def write(self, host: str, name: str, value: str) -> None:
        """Set a kernel parameter of a host's network."""
        with self.on(host):
            Path("/proc/sys", name).write_text(value, encoding="ascii")

    def index(self, host: str, link: str) -> int:
        """The number of a host's link."""
        with self.on(host):
            return socket.if_nametoindex(link)

    @contextlib.contextmanager
    def on(self, host: str) -> Iterator[None]:
        """Be on a host, for making sockets there."""
        there = os.open(f"/run/netns/{self._names[host]}", os.O_RDONLY)
        try:
            self._enter(there)
            try:
                yield
            finally:
                self._enter(self._home)
        finally:
            os.close(there)

    def _enter(self, namespace: int) -> None:
        if self._library.setns(namespace, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Remove the hosts."""
        for name in self._names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        os.close(self._home)


@contextlib.asynccontextmanager
async def server_on(networks: Networks, host: str, address: str, port: int = 0) -> AsyncIterator[Server]:
    """A server that echoes, on a host."""
    with networks.on(host):
        server = Server(echo, address, port)
    async with server:
        yield server


@contextlib.asynccontextmanager
async def endpoint_on(networks: Networks, host: str = "client", **more: Any) -> AsyncIterator[udpguard.Endpoint]:
    """An endpoint on a host; without spare ports, which would be opened where the test is then."""
    with networks.on(host):
        endpoint = await udpguard.open_endpoint(ports=udpguard.Ports(spares=0, quarantine=0), **more)
    async with endpoint:
        yield endpoint
        assert_idle(endpoint)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout
