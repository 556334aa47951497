"""Real servers from the operating system's packages, run as child processes on free loopback ports.

Each is a context manager. The configuration is written to a directory of the test's own, nothing is read from
the system's. A server counts as started when it has answered a plain socket with what only this instance
knows, and it is stopped by its own process id, whatever happened in between.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import interop_dns

ZONE: Final = "interop.test."
RECORDS: Final = f"records.{ZONE}"  # one name with records of every type
STRATUM: Final = 5
BULK: Final = 1000

_STARTS: Final = 5  # ports tried: another process may take one between our look and the server's bind
_START_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 5.0
_ADMIN_DIRECTORIES: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not in an ordinary user's PATH


class UnavailableError(Exception):
    """A server isn't installed, or didn't start."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    host: str
    port: int
    network: int  # the second octet of its bulk records' addresses: no two servers give the same one
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def at(self) -> str:
        """The server, as the examples take it on their command lines."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def bulk(self, index: int) -> tuple[str, str]:
        """The name and the address of one of the server's `BULK` records."""
        return f"host-{index:04}.{ZONE}", f"10.{self.network}.{index >> 8}.{index & 0xFF}"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stop the process from running, so that what it is asked stays pending."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Kind:
    """How a server is started, and asked whether it is the one we started."""

    command: Callable[[int, str], list[str]]  # of the port and a token that the server shall give back
    question: Callable[[str], bytes]
    is_answer: Callable[[bytes, str], bool]
    farewell: bytes | None = None  # sent to where the answer came from, which may be another port


def program(name: str) -> str:
    """The path of an installed program."""
    path = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_ADMIN_DIRECTORIES)))
    if path is None:
        raise UnavailableError(f"{name} is not installed")
    return path


# ---------------------------------------------------------------------------------------------
# The servers


def unbound(
    directory: Path, host: str = "127.0.0.1", network: int = 1, *, tcp: bool = False, more: Iterable[str] = ()
) -> AbstractContextManager[Server]:
    """unbound, the authority for `ZONE`; it knows nothing else, but for some records `more`, and asks nobody."""
    data = [*(f"{name} {rrtype} {text}" for name, rrtype, text in _records()), *more]
    data += [f"{name} A {address}" for name, address in _bulk(network)]

    def command(port: int, token: str) -> list[str]:
        own = [*data, f'whoami.{ZONE} TXT "{token}"']
        local_data = "\n".join(f"    local-data: '{_with_ttl(line)}'" for line in own)
        text = f"""
server:
    interface: {host}
    port: {port}
    do-daemonize: no
    do-tcp: {"yes" if tcp else "no"}
    do-ip4: {"no" if ":" in host else "yes"}
    do-ip6: {"yes" if ":" in host else "no"}
    outgoing-interface: {host}
    num-threads: 1
    so-reuseport: no
    chroot: ""
    username: ""
    directory: "{directory}"
    pidfile: ""
    use-syslog: no
    logfile: ""
    verbosity: 0
    access-control: 127.0.0.0/8 allow
    access-control: ::1 allow
    module-config: "iterator"
    local-zone: "." static
    local-zone: "{ZONE}" static
{local_data}
remote-control:
    control-enable: no
"""
        return [program("unbound"), "-d", "-c", str(_write(directory / "unbound.conf", text))]

    return serving("unbound", directory, host, network, Kind(command, _dns_question, _is_dns_answer))


def dnsmasq(directory: Path, host: str = "127.0.0.1", network: int = 2) -> AbstractContextManager[Server]:
    """dnsmasq with the same records in `ZONE`, and no server above it."""

    def command(port: int, token: str) -> list[str]:
        lines = [
            f"port={port}",
            f"listen-address={host}",
            "bind-interfaces",
            "no-resolv",
            "no-hosts",
            "local-ttl=300",
            f"local=/{ZONE.rstrip('.')}/",
            *_dnsmasq_records(),
            *(f"host-record={name.rstrip('.')},{address}" for name, address in _bulk(network)),
            f"txt-record=whoami.{ZONE.rstrip('.')},{token}",
        ]
        if os.geteuid() == 0:
            lines.append("user=root")  # its own user may not read the configuration
        path = _write(directory / "dnsmasq.conf", "\n".join(lines) + "\n")
        return [program("dnsmasq"), "--no-daemon", "--pid-file=", f"--conf-file={path}"]

    return serving("dnsmasq", directory, host, network, Kind(command, _dns_question, _is_dns_answer))


def chronyd(directory: Path, host: str = "127.0.0.1") -> AbstractContextManager[Server]:
    """chronyd as a server that trusts the machine's clock, and leaves it alone."""

    def command(port: int, token: str) -> list[str]:
        text = f"""
local stratum {STRATUM}
port {port}
bindaddress {host}
allow 127.0.0.0/8
cmdport 0
bindcmdaddress /
pidfile {directory / f"chronyd-{token}.pid"}
"""
        path = _write(directory / "chrony.conf", text)
        user = pwd.getpwuid(os.geteuid()).pw_name
        # -x: the clock isn't set. -U: any user may start it. -u: it stays the user it is.
        return [program("chronyd"), "-d", "-x", "-U", "-u", user, "-f", str(path)]

    return serving("chronyd", directory, host, 0, Kind(command, _ntp_question, _is_ntp_answer))


def tftpd(directory: Path, host: str = "127.0.0.1", retransmit: float = 0.05) -> AbstractContextManager[Server]:
    """in.tftpd of tftpd-hpa, which gives what lies in `directory`, by absolute names.

    Args:
        directory: What it gives; its log and a file to know it by are there, too.
        host: Where it listens.
        retransmit: The seconds after which it sends a block again, unless asked for others; then twice as long.
    """

    def command(port: int, token: str) -> list[str]:
        if os.geteuid() != 0:
            raise UnavailableError("in.tftpd sets its groups, which takes root")
        _write(directory / token, token)
        user = pwd.getpwuid(os.geteuid()).pw_name  # another may not read the directory
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        own = ["--foreground", "--address", where, "--user", user, "--retransmit", str(round(retransmit * 1e6))]
        return [program("in.tftpd"), *own, str(directory)]

    def question(token: str) -> bytes:
        return b"\0\1" + bytes(directory / token) + b"\0octet\0"

    def is_answer(data: bytes, token: str) -> bool:
        return data == b"\0\3\0\1" + token.encode()

    return serving("tftpd", directory, host, 0, Kind(command, question, is_answer, farewell=b"\0\5\0\0thanks\0"))


def _records() -> Iterable[tuple[str, str, str]]:
    yield RECORDS, "A", "192.0.2.1"
    yield RECORDS, "A", "192.0.2.2"
    yield RECORDS, "AAAA", "2001:db8::1"
    yield RECORDS, "AAAA", "2001:db8:0:1::2"
    yield RECORDS, "MX", f"10 mail.{ZONE}"
    yield RECORDS, "MX", f"20 backup.mail.{ZONE}"
    yield RECORDS, "TXT", '"v=test1 -all" "two strings"'
    yield f"mail.{ZONE}", "A", "192.0.2.25"


def _dnsmasq_records() -> Iterable[str]:
    for name, rrtype, text in _records():
        bare = name.rstrip(".")
        if rrtype == "MX":
            preference, exchange = text.split()
            yield f"mx-host={bare},{exchange.rstrip('.')},{preference}"
        elif rrtype == "TXT":
            strings = text.replace('" "', '","')
            yield f"txt-record={bare},{strings}"
        else:
            yield f"host-record={bare},{text}"


def _bulk(network: int) -> Iterable[tuple[str, str]]:
    return ((f"host-{index:04}.{ZONE}", f"10.{network}.{index >> 8}.{index & 0xFF}") for index in range(BULK))


def _with_ttl(line: str) -> str:
    name, rest = line.split(" ", 1)
    return f"{name} 300 IN {rest}"


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="ascii")
    return path


# ---------------------------------------------------------------------------------------------
# Starting and stopping


@contextmanager
def serving(name: str, directory: Path, host: str, network: int, kind: Kind) -> Iterator[Server]:
    server = _start(name, directory, host, network, kind)
    try:
        yield server
    finally:
        _stop(server.process)


def _start(name: str, directory: Path, host: str, network: int, kind: Kind) -> Server:
    log = directory / f"{name}.log"
    for _ in range(_STARTS):
        port, token = free_port(host), secrets.token_hex(8)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*_dies_with_us(), *kind.command(port, token)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        try:
            if _answers(process, host, port, token, kind):
                return Server(name, host, port, network, process)
        except BaseException:
            _stop(process)
            raise
        _stop(process)
    lines = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise UnavailableError(f"{name} did not start: {' / '.join(lines) or 'it said nothing'}")


def _answers(process: subprocess.Popen[bytes], host: str, port: int, token: str, kind: Kind) -> bool:
    """Ask until the server answers. False: it ended, or didn't in time."""
    deadline = time.monotonic() + _START_SECONDS
    with socket.socket(_family(host), socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.05)
        while process.poll() is None and time.monotonic() < deadline:
            try:
                asking.sendto(kind.question(token), (host, port))
                while True:
                    data, source = asking.recvfrom(4096)
                    is_from_there = source[0] == host and (source[1] == port or kind.farewell is not None)
                    if is_from_there and kind.is_answer(data, token):
                        if kind.farewell is not None:
                            asking.sendto(kind.farewell, source)
                        return True
            except (TimeoutError, ConnectionRefusedError):
                continue
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its children, one for each file that is fetched


@cache
def _dies_with_us() -> tuple[str, ...]:
    """What to start a child with, so that it ends even where the tests are killed; perhaps nothing."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    prefix = (setpriv, "--pdeathsig", "TERM")
    works = subprocess.run([*prefix, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return prefix if works.returncode == 0 else ()


def free_port(host: str) -> int:
    """A port that is free for the server, and free on the other family's loopback address too.

    It lies below where systems pick ports for sockets that ask for none, so that none of these takes it
    meanwhile, and it isn't drawn from `random`, which pytest-randomly seeds alike in all workers.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        if all(_is_free(address, port) for address in dict.fromkeys((host, "127.0.0.1", "::1"))):
            return port


def _is_free(host: str, port: int) -> bool:
    try:
        with socket.socket(_family(host), socket.SOCK_DGRAM) as trying:
            trying.bind((host, port))
    except OSError as error:
        # Where the family is missing, nobody can take the port.
        return error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


# ---------------------------------------------------------------------------------------------
# How to know that it is this server which answers


def _dns_question(token: str) -> bytes:
    return interop_dns.query(f"whoami.{ZONE}", "TXT", ident=int(token[:4], 16))


def _is_dns_answer(data: bytes, token: str) -> bool:
    response = interop_dns.parse(data)
    texts = [record.data for record in response.answers]
    return response.ident == int(token[:4], 16) and texts == [f'"{token}"']


def _ntp_question(token: str) -> bytes:
    return b"\x23" + bytes(39) + bytes.fromhex(token)  # version 4, client; the transmit timestamp comes back


def _is_ntp_answer(data: bytes, token: str) -> bool:
    """Tell whether chronyd has taken its clock for good: it answers a little before that, with stratum 0."""
    return len(data) >= 48 and data[1] == STRATUM and data[24:32] == bytes.fromhex(token)
