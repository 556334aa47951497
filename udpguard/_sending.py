"""Checks before a datagram is sent, and what the operating system's refusals mean."""

from __future__ import annotations

import errno
import os
from typing import cast

from udpguard._errors import DatagramTooLargeError, InvalidAddressError, PeerUnreachableError, UdpGuardError
from udpguard._typing import Buffer
from udpguard.core.address import IPV4_WIRE, Wire, is_several, is_unscoped_link_local, peer_of

# A UDP length field holds 65,535 with the header's 8 (RFC 768); IPv4 counts its own header of 20 in as well.
_LARGEST_IPV4 = 65_507
_LARGEST_IPV6 = 65_527


def checked_data(data: object, *, what: str = "data") -> bytes:
    """A datagram's payload as bytes of its own.

    Raises:
        TypeError: It is not bytes-like.
    """
    if type(data) is bytes:  # a derived class may lie about its length
        return data
    try:
        return memoryview(cast("Buffer", data)).tobytes()
    except TypeError:
        raise TypeError(f"{what} must be bytes, not {type(data).__name__}{_hint(data, what)}") from None


def _hint(data: object, what: str) -> str:
    """What to do about data of another kind."""
    if isinstance(data, str):
        return ": encode it, as in text.encode()"
    if is_several(data) and data and all(type(one) is int for one in data):
        return ": bytes(…) makes them of such a list of numbers"
    if is_several(data) and what == "data":
        return ": the address comes first, then the data, as in request((host, port), data)"
    return ""


def check_size(data: bytes, wire: Wire) -> None:
    """Refuse what no UDP datagram can hold.

    Raises:
        DatagramTooLargeError: It is longer than that.
    """
    limit = _LARGEST_IPV4 if len(wire) == IPV4_WIRE else _LARGEST_IPV6
    if len(data) > limit:
        family = "IPv4" if len(wire) == IPV4_WIRE else "IPv6"
        raise DatagramTooLargeError(
            f"{len(data)} bytes for {peer_of(wire)} do not fit into a UDP datagram: "
            f"over {family} it holds {limit} at the most",
            peer=peer_of(wire),
            size=len(data),
            limit=limit,
        )


def sending_error(error: OSError, data: bytes, wire: Wire, interface: str | None = None) -> UdpGuardError:
    """The operating system's refusal to send, as an error that says what to do; the refusal is its cause.

    Args:
        error: The refusal.
        data: What was to be sent.
        wire: To whom.
        interface: The address of the interface that it was to leave by; None: none was chosen so.
    """
    explained = _explained(error, data, wire, interface)
    explained.__cause__ = error
    return explained


def _explained(error: OSError, data: bytes, wire: Wire, interface: str | None) -> UdpGuardError:
    peer = peer_of(wire)
    if error.errno == errno.EMSGSIZE:
        return DatagramTooLargeError(
            f"{len(data)} bytes for {peer} are more than the path carries: send less at once",
            peer=peer,
            size=len(data),
        )
    if error.errno == errno.EACCES and _is_broadcast(wire):
        return InvalidAddressError(
            f"{peer.host} is a broadcast address: a request to it can't be matched, endpoint.discover(…) asks many "
            f"at once; for that, and to send() there, open the endpoint with allow_broadcast=True",
            address=peer,
        )
    text = os.strerror(error.errno) if error.errno else str(error)
    if interface is not None and error.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL):
        advice = f"is interface={interface!r} an address of this machine? its name or its index will do as well"
    else:
        advice = _advice(error, wire)
    return PeerUnreachableError(
        f"could not send to {peer}: {text}; {advice}", peer=peer, errno=error.errno, strerror=text
    )


_FORBIDDEN = "a firewall or a prohibiting route of this machine forbids it"
_NO_ROUTE = "check the address, and this machine's routes (ip route get shows which one is taken)"
_ADVICE = {
    errno.EPERM: _FORBIDDEN,
    errno.EACCES: _FORBIDDEN,
    errno.EADDRNOTAVAIL: (
        "this machine has no address to send from to there: the one it had is gone, or there is none of that family"
    ),
    errno.ENOMEM: "this machine is short of memory for its network",
    errno.ENETUNREACH: _NO_ROUTE,
    errno.EHOSTUNREACH: _NO_ROUTE,
    errno.ENETDOWN: "the network interface is down",
    errno.EINVAL: (
        "it can't be reached from the address this endpoint is bound to, or that is this machine's no longer, "
        "or a route of this machine drops it (blackhole)"
    ),
    errno.EBADF: "somebody closed the endpoint's socket: leave that to the endpoint, and open a new one",
}


def _is_broadcast(wire: Wire) -> bool:
    from udpguard._platform.sockets import is_directed_broadcast  # see `_host`

    return is_directed_broadcast(wire)


def _advice(error: OSError, wire: Wire) -> str:
    if is_unscoped_link_local(wire):
        return f"a link-local address needs its link, as in {peer_of(wire).host}%eth0"
    return _ADVICE.get(error.errno or 0, "check this machine's network")
