"""What a caller probably meant who wrote an address in another way: told in the error, never taken instead."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final, cast

_NAME: Final = re.compile(r"(?!-)[\w-]{1,63}(\.(?!-)[\w-]{1,63})*\.?", re.ASCII)
_MOST_SUGGESTED: Final = 80


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
