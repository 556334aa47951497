"""What several examples have in common: how addresses and times are written, and how they end."""

from __future__ import annotations

import argparse
import math
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import udpguard


class Server(NamedTuple):
    """Whom to ask, as it was written."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def server(text: str, default_port: int | None = None) -> Server:
    """`192.0.2.1:69`, `[2001:db8::1]:69`, or a name for the address; without a port where there is a usual one."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):  # Any colons are those of an IPv6 address.
        host, port = text, "" if default_port is None else str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    is_port = port.isdecimal() and 1 <= int(port) <= 65_535
    if not host or set(host) & set("[]") or not is_port:
        if port.isdecimal() and not is_port:
            raise argparse.ArgumentTypeError(f"{text!r} is no address: a port is 1 to 65535")
        forms = "HOST:PORT or [IPV6]:PORT" if default_port is None else "HOST, HOST:PORT or [IPV6]:PORT"
        raise argparse.ArgumentTypeError(f"{text!r} is no address: write {forms}")
    return Server(host, int(port))


def seconds(text: str) -> float:
    """A time that is longer than none, and ends."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


def complaint(error: Exception) -> str:
    """What went wrong, in a line."""
    if isinstance(error, OSError) and not isinstance(error, udpguard.UdpGuardError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def complaint_of(server: Server, error: Exception, silence: str = "") -> str:
    """What went wrong with a server, in a line that names it: most errors do that themselves.

    `silence` is what else to say where nothing at all came.
    """
    text = complaint(error)
    if silence and isinstance(error, udpguard.ReplyTimeoutError) and not error.near_misses:
        text += f"; {silence}"
    return text if str(server) in text or isinstance(error, socket.gaierror) else f"{server}: {text}"


def missing(what: str, package: str) -> str:
    """What to do about a package that is not there, in the environment that runs this."""
    return f"{what} from {package}, which is not installed here: {sys.executable} -m pip install {package}"


def shown(text: str) -> str:
    """What others wrote, without what would have the terminal do something."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def run(main: Callable[[], int], *expected: type[Exception]) -> NoReturn:
    """Run a program to its end, whatever its standard streams are: closed, full, or read by nobody any more.

    What the network brings, and what else is `expected`, ends it with a complaint in a line and 1; Ctrl-C with 130.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # Else a socket might get its number, and what is printed.
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    status = 1
    try:
        status = _status(main, (OSError, udpguard.UdpGuardError, *expected))
        sys.stdout.flush()
    except* BrokenPipeError:  # Whoever read it has had enough.
        status = 141
        _drop_output()
    except* OSError as errors:
        print(*map(complaint, _each(errors)), sep="\n", file=sys.stderr)
        _drop_output()
    sys.exit(status)


def _status(main: Callable[[], int], expected: tuple[type[Exception], ...]) -> int:
    try:
        return main()
    except BrokenPipeError:
        raise
    except expected as error:
        print(complaint(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _drop_output() -> None:
    """Have nobody complain at the exit that it can't be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _each(errors: ExceptionGroup[OSError]) -> list[OSError]:
    """What a group, and those in it, were made of."""
    return [
        one for error in errors.exceptions for one in (_each(error) if isinstance(error, ExceptionGroup) else [error])
    ]
