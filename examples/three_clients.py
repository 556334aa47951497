"""Why not just `recvfrom`, or `connect()`, or a list of addresses? Put them to the test, beside udpguard.

    python examples/three_clients.py

Each client asks the same servers on loopback, in five situations: an impostor answers before the server
does; one socket asks two servers, and the second answers first; the server is given by its host name; the
answer to a first question, given up already, comes when the second is asked; the answer to the first comes
once more then. Questions and answers have no transaction id, so nothing in them tells old from new. Prints
who was fooled, who could not do it and who got it right: what happened in this very run, which takes a few
seconds. The exit status is 1 if udpguard isn't right everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import udpguard

LOOPBACK = "127.0.0.1"
QUESTION = b"What do I owe you?"
SECOND_QUESTION = b"And what does she owe you?"
PATIENCE = 2.0  # seconds that a client waits for an answer
SHORT_PATIENCE = 0.3  # for one that does not come
MAX_BYTES = 2048

Address = tuple[str, int]


class Client(Protocol):
    """One way to ask."""

    def __call__(self, servers: list[Address], *, twice: bool) -> list[bytes]:
        """Ask the servers, and return what it believes that each one said.

        Asked `twice`, the one server hears both questions, one after the other, and what counts is what the client
        believes to be the answer to the second.
        """
        ...


# ------------------------------------------------------------------------------------- the clients


def patient_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE)
    return sock


def ask_first(sock: socket.socket, server: Address | None = None) -> None:
    """The first of two questions; whoever gets no answer soon goes on with the second."""
    if server is None:
        sock.send(QUESTION)
    else:
        sock.sendto(QUESTION, server)
    sock.settimeout(SHORT_PATIENCE)
    with contextlib.suppress(TimeoutError):
        sock.recv(MAX_BYTES)
    sock.settimeout(PATIENCE)


def naive(servers: list[Address], *, twice: bool) -> list[bytes]:
    """Believes whoever writes."""
    with patient_socket() as sock:
        if twice:
            ask_first(sock, servers[0])
        for server in servers:
            sock.sendto(SECOND_QUESTION if twice else QUESTION, server)
        return [sock.recvfrom(MAX_BYTES)[0] for _ in servers]


def connected(servers: list[Address], *, twice: bool) -> list[bytes]:
    """Has the kernel drop strangers, and with them every server but the first."""
    with patient_socket() as sock:
        sock.connect(servers[0])
        if twice:
            ask_first(sock)
        sock.send(SECOND_QUESTION if twice else QUESTION)
        for server in servers[1:]:
            sock.sendto(QUESTION, server)  # Linux sends it, other systems raise EISCONN.
        return [sock.recv(MAX_BYTES) for _ in servers]


def address_list(servers: list[Address], *, twice: bool) -> list[bytes]:
    """Looks for each answer's source in the list of those that were asked."""
    answers: dict[Address, bytes] = {}
    with patient_socket() as sock:
        if twice:
            ask_first(sock, servers[0])
        for server in servers:
            sock.sendto(SECOND_QUESTION if twice else QUESTION, server)
        while len(answers) < len(servers):
            data, sender = sock.recvfrom(MAX_BYTES)
            if sender in servers:
                answers[sender] = data
    return [answers[server] for server in servers]


def guarded(servers: list[Address], *, twice: bool) -> list[bytes]:
    """Asks through a udpguard endpoint."""

    async def ask() -> list[bytes]:
        # Without `rotate` the port changes only after a question without an answer, or with two that were seen.
        ports = udpguard.Ports(rotate=True)
        async with udpguard.open_endpoint(timeout=PATIENCE, ports=ports) as endpoint:
            if twice:
                with contextlib.suppress(udpguard.ReplyTimeoutError):
                    await endpoint.request(servers[0], QUESTION, timeout=SHORT_PATIENCE)
                return [await endpoint.request(servers[0], SECOND_QUESTION)]
            return await asyncio.gather(*(endpoint.request(server, QUESTION) for server in servers))

    return asyncio.run(ask())


CLIENTS: dict[str, Client] = {
    "naive recvfrom": naive,
    "connect()": connected,
    "address list": address_list,
    "udpguard": guarded,
}


# ------------------------------------------------------------------------------------- the servers


class Server(asyncio.DatagramProtocol):
    """Answers whoever asks; where another goes `first`, as soon as that one has answered the same client."""

    transport: asyncio.DatagramTransport

    def __init__(self, answer: bytes, first: Server | None = None) -> None:
        self.answer = answer
        self._first = first
        self._answered: set[Address] = set()
        self._held_back: dict[Address, Callable[[], None]] = {}

    @property
    def port(self) -> int:
        """Where it can be asked."""
        port: int = self.transport.get_extra_info("sockname")[1]
        return port

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """A client asks."""
        del data  # There is but one question.
        if self._first is None:
            self.reply_to(addr)
        else:
            self._first.overhear(addr)
            self._first.after_replying_to(addr, lambda: self.reply_to(addr))

    def reply_to(self, client: Address) -> None:
        """Answer a client, and let the one go on that waited for this."""
        self.transport.sendto(self.answer, client)
        self._answered.add(client)
        self._held_back.pop(client, lambda: None)()

    def after_replying_to(self, client: Address, call: Callable[[], None]) -> None:
        """Call `call` when this client has been answered, be it now."""
        if client in self._answered:
            call()
        else:
            self._held_back[client] = call

    def overhear(self, client: Address) -> None:
        """A client asks another server: an honest one keeps out of it."""


class Impostor(Server):
    """Answers the questions that are put to somebody else."""

    def overhear(self, client: Address) -> None:
        """A client asks another server: here is the chance."""
        self.reply_to(client)


class Repeater(Server):
    """Answers the first question too late, or once more: in either case, when the second one comes."""

    def __init__(self, first_answer: bytes, answer: bytes, *, at_once: bool) -> None:
        super().__init__(answer)
        self._first_answer = first_answer
        self._at_once = at_once
        self._first_asked_from: Address | None = None

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """A client asks."""
        if data == QUESTION:
            self._first_asked_from = addr
            if self._at_once:
                self.transport.sendto(self._first_answer, addr)
        else:
            if self._first_asked_from is not None:
                self.transport.sendto(self._first_answer, self._first_asked_from)
            self.reply_to(addr)


async def start(server: Server) -> Server:
    """Open a socket on a free loopback port for it."""
    loop = asyncio.get_running_loop()
    server.transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=(LOOPBACK, 0))
    return server


# ---------------------------------------------------------------------------------------- the test


@dataclass(frozen=True)
class Situation:
    """Whom the clients are to ask, and what the servers really say."""

    name: str
    servers: list[Address]  # as the clients are given them
    truth: list[bytes]
    twice: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a client in a situation."""

    verdict: str
    detail: str = ""


RIGHT = "got it right"
FOOLED = "was fooled"
FAILED = "could not do it"


def put_to_the_test(client: Client, situation: Situation) -> Outcome:
    try:
        answers = client(situation.servers, twice=situation.twice)
    except (OSError, udpguard.UdpGuardError) as error:
        return Outcome(FAILED, f"{type(error).__name__}: {error}")
    for server, believed, true in zip(situation.servers, answers, situation.truth, strict=True):
        if believed != true:
            return Outcome(FOOLED, f"took {believed.decode()!r} for the answer of {server[0]}:{server[1]}")
    return Outcome(RIGHT)


def table(rows: dict[str, list[Outcome]], situations: list[str]) -> str:
    """The verdicts, and below them what lies behind those that are not right."""
    lines = [f"{'':16}" + "".join(f"{situation:18}" for situation in situations)]
    details: list[str] = []
    for name, outcomes in rows.items():
        lines.append(f"{name:16}" + "".join(f"{outcome.verdict:18}" for outcome in outcomes))
        details += (
            f"  {name}, {situation}: {outcome.detail}"
            for situation, outcome in zip(situations, outcomes, strict=True)
            if outcome.verdict != RIGHT
        )
    return "\n".join(line.rstrip() for line in [*lines, "", *details])


async def run() -> int:
    impostor = await start(Impostor(b"A million, says the impostor."))
    shadowed = await start(Server(b"Ten, says the server.", first=impostor))
    second = await start(Server(b"Two, says the second server."))
    slow = await start(Server(b"One, says the first server.", first=second))
    named = await start(Server(b"Three, says the server with a name."))
    situations = [
        Situation("impostor", [(LOOPBACK, shadowed.port)], [shadowed.answer]),
        Situation("second server", [(LOOPBACK, slow.port), (LOOPBACK, second.port)], [slow.answer, second.answer]),
        Situation("host name", [("localhost", named.port)], [named.answer]),
    ]
    servers = [impostor, shadowed, second, slow, named]

    async def asked_twice(name: str, *, at_once: bool) -> Situation:
        """Each client has a server of its own for this, which knows one who asks."""
        repeater = await start(Repeater(b"Four, says the server.", b"Five, says the server.", at_once=at_once))
        servers.append(repeater)
        return Situation(name, [(LOOPBACK, repeater.port)], [repeater.answer], twice=True)

    async def row(client: Client) -> list[Outcome]:
        own = [await asked_twice("late answer", at_once=False), await asked_twice("repeated answer", at_once=True)]
        return await asyncio.gather(
            *(asyncio.to_thread(put_to_the_test, client, situation) for situation in [*situations, *own])
        )

    print("Asking; some clients will wait in vain...\n", flush=True)
    try:
        rows = dict(zip(CLIENTS, await asyncio.gather(*map(row, CLIENTS.values())), strict=True))
    finally:
        for server in servers:
            server.transport.close()
    print(table(rows, [*(situation.name for situation in situations), "late answer", "repeated answer"]))
    return 0 if all(outcome.verdict == RIGHT for outcome in rows["udpguard"]) else 1


def main() -> int:
    try:
        return asyncio.run(run())
    except OSError as error:
        print(f"Cannot start the servers: {error}\nIs loopback ({LOOPBACK}) up?", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
