"""udpguard's fixtures, which pytest finds by itself: `udp_simulation`, `udp_server`, `udp_relay`, `udp_impostor`.

It is installed beside the package, as `_udpguard_pytest`, since importing that takes a fifth of a second: pytest
imports this in every project of an environment that has udpguard, and most need none of it. What a fixture needs is
imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from typing import Unpack

    from udpguard import Address
    from udpguard.testing import ConditionArguments, Handler, Host, Impostor, Relay, Seed, Server, Simulation

    S = TypeVar("S", Server, Relay, Impostor)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --udpguard-seed."""
    parser.getgroup("udpguard").addoption(
        "--udpguard-seed",
        metavar="SEED",
        help="the seed of udpguard's simulations, relays and impostors (default: each test's own name)",
    )


@pytest.fixture
def udpguard_seed(request: pytest.FixtureRequest) -> str:
    """What decides all that is random in a test: its name, unless --udpguard-seed is given."""
    seed: str | None = request.config.getoption("--udpguard-seed")
    return request.node.nodeid if seed is None else seed


@pytest.fixture
def udp_simulation(udpguard_seed: str) -> Iterator[Simulation]:
    """A `udpguard.testing.Simulation`, for a plain test function, closed after it."""
    from udpguard.testing import Simulation

    with Simulation(udpguard_seed) as simulation:
        yield simulation


@pytest.fixture
def udp_server() -> Iterator[Callable[..., Server]]:
    """Call it for a `udpguard.testing.Server`, with the same arguments; it is closed after the test at the latest."""
    made: list[Server] = []

    def make(handler: Handler | None = None, host: str | Host = "127.0.0.1", port: int = 0) -> Server:
        from udpguard.testing import Server, echo

        return _kept(made, Server(echo if handler is None else handler, host, port))

    yield make
    _close(made)


@pytest.fixture
def udp_relay(udpguard_seed: str) -> Iterator[Callable[..., Relay]]:
    """Call it for a `udpguard.testing.Relay`, with the same arguments; its seed is the test's unless given."""
    made: list[Relay] = []

    def make(
        server: Address,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: Seed = udpguard_seed,
        **conditions: Unpack[ConditionArguments],
    ) -> Relay:
        from udpguard.testing import Relay

        return _kept(made, Relay(server, host=host, port=port, seed=seed, **conditions))

    yield make
    _close(made)


@pytest.fixture
def udp_impostor(udpguard_seed: str) -> Iterator[Callable[..., Impostor]]:
    """Call it for a `udpguard.testing.Impostor`, with the same arguments; its seed is the test's unless given."""
    made: list[Impostor] = []

    def make(plays: Server | Address, *, seed: Seed = udpguard_seed) -> Impostor:
        from udpguard.testing import Impostor

        return _kept(made, Impostor(plays, seed=seed))

    yield make
    _close(made)


def _kept(made: list[S], one: S) -> S:
    made.append(one)
    return one


def _close(made: list[S]) -> None:
    for one in made:
        one.close()
