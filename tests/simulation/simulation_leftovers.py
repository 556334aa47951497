"""The sockets that a simulated host still has once nothing goes on any more. What else is left over `at_rest` knows."""

from __future__ import annotations

from udpguard.testing import Host


def left_sockets(host: Host, allowed: int = 0) -> list[str]:
    """The sockets a host still has, beyond so many."""
    sockets = [repr(sock) for sock in host._sockets.values()]
    ports = [key for key, count in host._ports.items() if count < 0]
    return ([f"sockets: {sockets}"] if len(sockets) > allowed else []) + [f"port {key} counted wrong" for key in ports]
