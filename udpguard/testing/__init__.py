"""Test UDP code without a network, without waiting, and with the same outcome each time.

`Simulation` runs an asyncio program in virtual time, over a simulated network that loses, duplicates, delays, reorders
and corrupts as its seed decides. What is simulated lies below udpguard's matching: what is tested is what ships.
"""

from types import FunctionType as _FunctionType

from udpguard.testing._conditions import ConditionArguments, Conditions, Delay
from udpguard.testing._hosts import Host
from udpguard.testing._impostor import Impostor
from udpguard.testing._loop import DeadlockError, VirtualLoop
from udpguard.testing._network import Datagram, Network, Route
from udpguard.testing._relay import Relay
from udpguard.testing._replay import ReplayedNetwork, replay
from udpguard.testing._server import (
    Answer,
    Answers,
    Handler,
    Request,
    SentFrom,
    Server,
    canned,
    echo,
    silent,
    with_other_id,
)
from udpguard.testing._simulation import Simulation, run
from udpguard.testing._trace import Event, Icmp, Kind, Seed, Trace

__all__ = [
    "Answer",
    "Answers",
    "ConditionArguments",
    "Conditions",
    "Datagram",
    "DeadlockError",
    "Delay",
    "Event",
    "Handler",
    "Host",
    "Icmp",
    "Impostor",
    "Kind",
    "Network",
    "Relay",
    "ReplayedNetwork",
    "Request",
    "Route",
    "Seed",
    "SentFrom",
    "Server",
    "Simulation",
    "Trace",
    "VirtualLoop",
    "canned",
    "echo",
    "replay",
    "run",
    "silent",
    "with_other_id",
]


def _claim() -> None:
    """Let public names show this module as theirs, not the private one they are written in."""
    for value in [globals()[name] for name in __all__]:
        if isinstance(value, (type, _FunctionType)):
            value.__module__ = __name__


_claim()
