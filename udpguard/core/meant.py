"""What is wrong with an address, and what its caller probably meant: told in the error, never taken instead."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_network
from typing import Final, cast

from udpguard.core.address import is_several, is_tuple

_NAME: Final = re.compile(r"(?!-)[\w-]{1,63}(\.(?!-)[\w-]{1,63})*\.?", re.ASCII)
_MOST_SUGGESTED: Final = 80


def no_address(address: object) -> str:
    """What is wrong with what has not the form of an address."""
    if is_several(address) and address and is_tuple(address[0]):
        first = address[0]
        return f"{address!r:.200} is a list: one address is wanted here, such as {first!r:.200}"
    general = ": pass (host, port), or the 4-tuple of an IPv6 socket address"
    return f"{address!r:.200} is not an address{instead(address) or general}"


def no_literal(host: str, address: object) -> str:
    """What is wrong with a host that has a colon or a scope, and is no IPv6 literal."""
    if "://" in host:
        return f"{host!r} in {address!r} is a URL, not a host{instead(address)}"
    if host.startswith("["):
        return f"{host!r} in {address!r} is not an IPv6 address: write it without brackets{instead(address, ', ')}"
    if host.count(":") == 1 and "%" not in host:
        return f"{host!r} in {address!r} is not a host alone: the port goes beside the host{instead(address, ', ')}"
    return f"{host!r} in {address!r} is not an IPv6 address"


def instead(address: object, after: str = ": ") -> str:
    """What to pass instead of an address, where that can be told."""
    meant = suggestion(address)
    return f"{after}pass {meant}" if meant is not None else ""


def source(part: object) -> str | None:
    """What to pass instead of what is no source of replies; None where nobody can tell."""
    if not isinstance(part, str):
        return None
    try:
        return f"it has host bits set, pass '{ip_network(part, strict=False)}'"
    except ValueError:
        meant = suggestion(part)
    if meant is None:
        return None
    if not meant.endswith(", port)"):
        return f"pass {meant}"
    return f"a host name must be looked up, pass the Peer that `await endpoint.resolve{meant}` gives"


def suggestion(address: object) -> str | None:
    """The address that was probably meant, as one writes it in Python; None where nobody can tell.

    `"192.0.2.1:53"`, `"udp://192.0.2.1:53"`, `("[::1]", 53)`, `(53, "192.0.2.1")` and `["192.0.2.1", 53]` are such
    ways of writing one. Where the port is missing the word `port` stands for it.
    """
    parts = (address,) if isinstance(address, str) else address
    if not isinstance(parts, (tuple, list)) or not 0 < len(cast("list[object]", parts)) <= 2:
        return None
    host, port = (*cast("list[object]", parts), None)[:2]
    if isinstance(port, str) and not isinstance(host, str):
        host, port = port, host
    if isinstance(host, bytes):
        host = host.decode("latin-1")
    if not isinstance(host, str) or len(host) > _MOST_SUGGESTED:
        return None
    name, written = _taken_apart(host)
    if not (_NAME.fullmatch(name) or _is_ipv6(name)):
        return None
    number = next((found for found in map(_number, (port, written)) if found is not None), None)
    meant = f"({name!r}, {'port' if number is None else number})"
    return meant if meant != repr(address) else None


def _taken_apart(text: str) -> tuple[str, str]:
    """The host and the port of a text such as those in URLs (RFC 3986 section 3.2); an empty one for none."""
    text = text.strip()
    if "://" in text:
        text = text.partition("://")[2].partition("/")[0]
    text = text.rpartition("@")[2]
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, port.removeprefix(":")
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, ""


def _is_ipv6(text: str) -> bool:
    try:
        return bool(IPv6Address(text))
    except ValueError:
        return False


def _number(port: object) -> int | None:
    if isinstance(port, str) and port.isascii() and port.isdecimal() and len(port) < 6:
        port = int(port)
    return port if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65_536 else None
