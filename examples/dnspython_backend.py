"""Look names up with dnspython, all of its UDP queries over one udpguard endpoint.

    python examples/dnspython_backend.py --server 9.9.9.9 example.org example.net
    python examples/dnspython_backend.py --server 192.0.2.1:5301 --server [2001:db8::1]:5301 --type MX example.org

The names are looked up all at once, and the records are printed as they come, in the style of `dig +noall +answer`.
Of several servers, dnspython asks the next one where one is dead or silent. The exit status is 0 if each name has such
records, and 1 otherwise. It takes dnspython: `pip install dnspython`.

dnspython opens a socket for each query, and believes whatever comes from the right address with the right id.
`UdpguardBackend` has it ask through an endpoint instead: one socket for all, ids that udpguard picks and nobody can
guess, and a reply must repeat the question (RFC 5452 section 9.1), or dnspython never sees it. It serves wherever
dnspython takes a `backend`:

    async with udpguard.open_endpoint() as endpoint:
        backend = UdpguardBackend(endpoint)
        message = await dns.asyncquery.udp(query, "192.0.2.1", timeout=2, backend=backend)
        answer = await dns.asyncresolver.resolve("example.org", "MX", backend=backend)

TCP, as for truncated responses, is left to dnspython's own backend for asyncio.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

import command_line
import udpguard
from command_line import Server

try:
    import dns.asyncbackend
    import dns.asyncresolver
    import dns.exception
    import dns.message
    import dns.nameserver
    import dns.rdatatype
    import dns.resolver
except ImportError:
    sys.exit("this is about dnspython: pip install dnspython")

PORT = 53
FAILED = (dns.resolver.LifetimeTimeout, dns.resolver.NoNameservers)  # they have a list of what each server did
QUERY_ID = udpguard.TransactionId(0, 2, assign=True)  # RFC 1035 section 4.1.1

# --------------------------------------------------------------------------------------- the backend


class UdpguardBackend(dns.asyncbackend.Backend):
    """A backend for dnspython's asynchronous queries, whose UDP goes through an endpoint.

    Args:
        endpoint: An open endpoint, of the running event loop. It stays open.
    """

    def __init__(self, endpoint: udpguard.Endpoint) -> None:
        self._endpoint = endpoint
        self._client = endpoint.client(correlate=QUERY_ID)
        self._others = dns.asyncbackend.get_backend("asyncio")

    def name(self) -> str:
        """What it is called."""
        return "udpguard"

    async def make_socket(
        self,
        af: int,
        socktype: int,
        proto: int = 0,
        source: Any = None,
        destination: Any = None,
        timeout: float | None = None,
        ssl_context: Any = None,
        server_hostname: str | None = None,
    ) -> Any:
        """What stands for a socket of dnspython's."""
        if socktype != socket.SOCK_DGRAM:
            return await self._others.make_socket(
                af, socktype, proto, source, destination, timeout, ssl_context, server_hostname
            )
        if source is not None:
            raise ValueError(f"{source} can't be the source of one query: udpguard.open_endpoint({source}) binds there")
        return GuardedSocket(self._endpoint, self._client, af)

    def datagram_connection_required(self) -> bool:
        """Whether dnspython must connect it: no, the endpoint hears whom it asked alone."""
        return False

    async def sleep(self, interval: float) -> None:
        """Wait for so many seconds."""
        await asyncio.sleep(interval)

    def get_transport_class(self) -> Any:
        """What DNS over HTTPS goes through."""
        return self._others.get_transport_class()

    async def wait_for(self, awaitable: Awaitable[Any], timeout: float | None) -> Any:
        """Await with a time-out in seconds."""
        return await self._others.wait_for(awaitable, timeout)


class GuardedSocket(dns.asyncbackend.DatagramSocket):
    """One query: it leaves when its response is waited for, which dnspython does right away.

    Args:
        endpoint: Whose socket it is.
        client: What it is asked through.
        family: The server's address family.
    """

    def __init__(self, endpoint: udpguard.Endpoint, client: udpguard.Client, family: int) -> None:
        super().__init__(family, socket.SOCK_DGRAM)
        self._endpoint = endpoint
        self._client = client
        self._query: tuple[bytes, udpguard.Address] | None = None

    async def sendto(self, what: bytes, destination: udpguard.Address, timeout: float | None) -> int:
        """Take the query."""
        del timeout
        self._query = what, destination
        return len(what)

    async def recvfrom(self, size: int, timeout: float | None) -> tuple[bytes, udpguard.Address]:
        """Ask, and give the response and who sent it.

        Raises:
            dns.exception.Timeout: There was none; its cause tells why that may be.
            ConnectionRefusedError: Nothing listens there.
        """
        del size
        if self._query is None:
            raise RuntimeError("a query has one response: send it again for another")
        if timeout is not None and timeout <= 0:
            raise dns.exception.Timeout(timeout=timeout)
        (what, server), self._query = self._query, None
        accept = partial(answers, dns.message.from_wire(what))
        try:
            reply = await self._client.exchange(server, what, timeout=timeout, accept=accept)
        except udpguard.ReplyTimeoutError as error:
            raise dns.exception.Timeout(timeout=timeout) from error
        return reply.data, reply.peer.sockaddr

    async def getsockname(self) -> udpguard.Address:
        """Where the endpoint listens."""
        is_ipv6 = self.family == socket.AF_INET6
        return next(own.sockaddr for own in self._endpoint.local_addrs if (":" in own.host) is is_ipv6)


def answers(query: dns.message.Message, reply: udpguard.Reply) -> bool:
    """Whether a reply is a response to the query. What it raises is quoted when that times out."""
    return query.is_response(dns.message.from_wire(reply.data, question_only=True))


# ------------------------------------------------------------------------------------------ the tool


async def look_up(resolver: dns.asyncresolver.Resolver, name: str, kind: str, backend: UdpguardBackend) -> bool:
    """Look one name up, and print its records. Returns whether there are any."""
    try:
        answer = await resolver.resolve(name, kind, search=False, backend=backend)
    except (dns.exception.DNSException, ValueError) as error:
        print(f"{name}: {complaint(error)}", file=sys.stderr)
        return False
    print(*(record.to_text() for record in answer.response.answer), sep="\n", flush=True)
    return True


def complaint(error: Exception) -> str:
    """What went wrong, and what each server had to do with it."""
    text = str(error).partition(":")[0] if isinstance(error, FAILED) else str(error)
    met = [each[3] for each in error.kwargs.get("errors", ())] if isinstance(error, dns.exception.DNSException) else []
    reasons = dict.fromkeys(command_line.complaint(getattr(each, "__cause__", None) or each) for each in met)
    return ": ".join(filter(None, (text.rstrip("."), "; ".join(reasons))))


async def run(servers: Sequence[Server], names: Sequence[str], kind: str, timeout: float) -> int:
    async with udpguard.open_endpoint() as endpoint:
        backend = UdpguardBackend(endpoint)
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [
            dns.nameserver.Do53Nameserver(peer.host, peer.port)
            for peer in await asyncio.gather(*(endpoint.resolve(*server) for server in servers))
        ]
        resolver.lifetime = timeout
        found = await asyncio.gather(*(look_up(resolver, name, kind, backend) for name in names))
    return 0 if all(found) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Look names up with dnspython, over one udpguard endpoint.")
    parser.add_argument("names", metavar="NAME", nargs="+", help="domain names, looked up all at once")
    parser.add_argument(
        "--server",
        metavar="HOST[:PORT]",
        type=partial(command_line.server, default_port=PORT),
        action="append",
        required=True,
        help="a name server; may be given again for others, which are asked where it fails",
    )
    parser.add_argument("--type", default="A", type=record_type, help="of the records wanted (default: A)")
    parser.add_argument(
        "--timeout", default=5.0, type=command_line.seconds, help="for each name, in seconds (default: %(default)s)"
    )
    arguments = parser.parse_args()
    return asyncio.run(run(arguments.server, arguments.names, arguments.type, arguments.timeout))


def record_type(text: str) -> str:
    try:
        return dns.rdatatype.to_text(dns.rdatatype.from_text(text))
    except (dns.exception.DNSException, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no type of records") from None


if __name__ == "__main__":
    command_line.run(main)
