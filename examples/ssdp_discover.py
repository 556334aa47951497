"""Find the UPnP devices on the local network: routers, printers, televisions.

    python examples/ssdp_discover.py
    python examples/ssdp_discover.py --interface eth0 --target ssdp:all --reply-from 192.0.2.0/24

SSDP (UPnP Device Architecture 2.0, section 1.3) is one question to a multicast group, and each device it is about
answers from an address of its own, after a random time. That is `endpoint.discover`: it asks, asks again since
datagrams get lost, and gives each answer as it comes, until its window ends.

A device that answers twice, or from two addresses, is shown once: its USN, the unique service name, says who it is.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from typing import NamedTuple

import command_line
import udpguard

try:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
except ImportError:
    sys.exit(command_line.missing("the table comes", "rich"))

GROUP = "239.255.255.250:1900"
TTL = 2  # the architecture's own default
SECOND_TIME = 0.5  # seconds after which it is asked again
MARGIN = 0.5  # seconds that an answer may be under way


class Device(NamedTuple):
    """Who answered."""

    usn: str
    host: str
    server: str
    location: str


def search(group: command_line.Server, target: str, longest: int) -> bytes:
    """The question: who is a device like this? An answer may take so many seconds."""
    lines = [
        "M-SEARCH * HTTP/1.1",
        f"HOST: {group}",
        'MAN: "ssdp:discover"',
        f"MX: {longest}",
        f"ST: {target}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


def read_device(reply: udpguard.Reply) -> Device | None:
    """Who that is, or None where it is no answer to a search."""
    status, *lines = reply.data.decode(errors="replace").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().upper(), command_line.shown(value.strip()))
    if status.split()[:2] != ["HTTP/1.1", "200"] or not headers.get("USN"):
        return None
    return Device(headers["USN"], reply.peer.host, headers.get("SERVER", ""), headers.get("LOCATION", ""))


async def run(arguments: argparse.Namespace, show: Callable[[Device], object]) -> udpguard.Statistics:
    """Search, and show each device once. Returns what came."""
    question = search(arguments.group, arguments.target, arguments.longest)
    found: set[str] = set()
    async with (
        udpguard.open_endpoint() as endpoint,
        endpoint.discover(
            arguments.group,
            question,
            reply_from=arguments.reply_from,
            window=SECOND_TIME + arguments.longest + MARGIN,
            retry=udpguard.Retry(attempts=2, initial=SECOND_TIME, jitter=0.0),
            accept=lambda reply: read_device(reply) is not None,
            interface=arguments.interface,
            ttl=arguments.ttl,
        ) as replies,
    ):
        async for reply in replies:
            device = read_device(reply)
            if device is not None and device.usn not in found:
                found.add(device.usn)
                show(device)
        return endpoint.statistics()


def show_all(arguments: argparse.Namespace) -> udpguard.Statistics:
    """Show the devices in a table that grows, on a terminal; elsewhere as lines."""
    if not sys.stdout.isatty():
        return asyncio.run(run(arguments, lambda device: print(*device, sep="\t", flush=True)))
    table = Table("device", "address", "software", "description")
    with Live(table, console=Console(highlight=False, markup=False, emoji=False)):
        return asyncio.run(run(arguments, lambda device: table.add_row(*device)))


def main() -> int:
    parser = argparse.ArgumentParser(description="Find the UPnP devices on the local network.")
    parser.add_argument("--target", default="upnp:rootdevice", help="what to search for (default: %(default)s)")
    parser.add_argument("--interface", help="its name, or its IPv4 address (default: as the routes say)")
    parser.add_argument(
        "--reply-from",
        metavar="NETWORK",
        default="anywhere",
        help="believe only who is in it, such as 192.0.2.0/24 (default: %(default)s)",
    )
    parser.add_argument(
        "--longest",
        metavar="SECONDS",
        type=int,
        choices=range(1, 6),
        default=2,
        help="that a device may take to answer, 1 to 5 (default: %(default)s)",
    )
    parser.add_argument(
        "--group",
        metavar="HOST:PORT",
        type=command_line.server,
        default=GROUP,
        help="whom to ask; [ff02::c]:1900 for IPv6 (default: %(default)s)",
    )
    parser.add_argument("--ttl", type=int, default=TTL, help="over how many hops (default: %(default)s)")
    arguments = parser.parse_args()
    if not arguments.target.isprintable() or not arguments.target.isascii():
        parser.error("the target must be plain text, such as ssdp:all")
    came = show_all(arguments)
    if came.unknown_peer:
        print(f"datagrams from elsewhere: {came.unknown_peer}", file=sys.stderr)
    if came.rejected:
        print(f"datagrams that are no answer: {came.rejected}", file=sys.stderr)
    if not came.matched:
        print("no device answered; is --interface the one that they are behind?", file=sys.stderr)
    return 0 if came.matched else 1


if __name__ == "__main__":
    command_line.run(main, ValueError)
