"""A program, a network and a clock in one: what a test of UDP code begins with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar, Unpack

from udpguard.testing._conditions import ConditionArguments
from udpguard.testing._hosts import Host
from udpguard.testing._loop import VirtualLoop
from udpguard.testing._network import Network
from udpguard.testing._trace import Seed, Trace

T = TypeVar("T")


class Simulation:
    """Runs asyncio programs in virtual time, over a simulated network.

        with Simulation(seed=1, loss=0.3) as sim:
            answer = sim.run(main())

    Args:
        seed: Decides all that is random, the ids and ports that udpguard picks included.
        network: The network; one made of the other arguments unless given.
        trace: Whether to record what happens.
        conditions: What happens between any two hosts, as `Conditions` has it.

    Raises:
        ValueError: A number makes no sense, or a network is given and more.
    """

    def __init__(
        self,
        seed: Seed = 0,
        *,
        network: Network | None = None,
        trace: bool = True,
        **conditions: Unpack[ConditionArguments],
    ) -> None:
        if network is not None and (conditions or seed != 0 or not trace):
            raise ValueError("the network has its seed, its trace and its conditions already: pass it alone")
        self.network: Network = Network(seed, trace=trace, **conditions) if network is None else network
        self.loop: VirtualLoop = VirtualLoop(self.network)
        self._runner = asyncio.Runner(loop_factory=lambda: self.loop)
        self._ran = False

    @property
    def seed(self) -> Seed:
        """Its network's seed."""
        return self.network.seed

    @property
    def client(self) -> Host:
        """The host that the program runs on, unless it enters another."""
        return self.network.client

    @property
    def trace(self) -> Trace:
        """What happened in its network until now.

        Raises:
            RuntimeError: It was told to record nothing.
        """
        if self.network.trace is None:
            raise RuntimeError("nothing was recorded: make the simulation with trace=True")
        return self.network.trace

    def host(self, *addresses: str) -> Host:
        """The host that has these addresses; see `Network.host`."""
        return self.network.host(*addresses)

    def run(self, main: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine, or a function that gives one, to its end. It can be called again; time goes on.

        Returns:
            What the coroutine returns.

        Raises:
            DeadlockError: It waits for what can't happen.
            RuntimeError: A loop runs in this thread already: call it from a plain function, not from a coroutine.
        """
        _check_no_loop(main)
        self._ran = True
        return self._runner.run(main() if callable(main) else main)

    def close(self) -> None:
        """End what is left of its tasks, and close its loop."""
        if self._ran:
            self._runner.close()
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _check_no_loop(main: object) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if asyncio.iscoroutine(main):
        main.close()
    raise RuntimeError(
        "a simulation runs a loop of its own: call run() from a plain function (def test_…, no async); "
        "where a loop runs already, as in a notebook, write `await asyncio.to_thread(run, main)`"
    )


def run(
    main: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]],
    *,
    seed: Seed = 0,
    network: Network | None = None,
    **conditions: Unpack[ConditionArguments],
) -> T:
    """Run a coroutine in a simulation of its own, as `asyncio.run` does in real time.

    Args:
        main: The coroutine, or a function that gives one.
        seed: Decides all that is random.
        network: The network; one made of the other arguments unless given.
        conditions: What happens between any two hosts, as `Conditions` has it.

    Returns:
        What the coroutine returns.

    Raises:
        DeadlockError: It waits for what can't happen.
    """
    with Simulation(seed, network=network, trace=network is not None, **conditions) as simulation:
        return simulation.run(main)
