"""A socket filter that lets only expected sources in (SO_ATTACH_FILTER, `man 7 socket`).

It needs no privileges. It runs before a datagram is queued, and not on the error queue. A program that is replaced is
charged to the socket (net.core.optmem_max) together with the one that replaces it, and where that does not fit the old
one is detached first: for that moment strangers come in, and the registry still checks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import secrets
import socket
import sys
from collections.abc import Iterable
from typing import Final

from udpguard._platform.bpf import INSTRUCTION, BloomProgram, Hears, Secret, list_program
from udpguard._platform.linux_abi import last_error
from udpguard._platform.portable import is_dual_stack
from udpguard.core.address import IPV4_WIRE, IPV6_WIRE, Token

assert sys.platform == "linux"

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_SO_GET_FILTER: Final = _SO_ATTACH_FILTER

# A list is exact and cheap while it is short: 128 sources are 200 instructions, attached in 70 µs.
_MOST_LISTED: Final = 128
# Each new host among those that are listed beside a Bloom filter has that built again, in up to 10 ms. Where there are
# more than a few, everything goes by host, and ports don't matter.
_FEW_HOSTS: Final = 16
# 64 words are 250 instructions, attached in 70 µs; 1,024 are 3,150, in 0.5 ms. Two sources to a word let about 1 % of
# strangers pass; past 2,048 sources there are more to a word, and 4,000 let 4 % pass.
_FEWEST_WORDS: Final = 64
_MOST_WORDS: Final = 1_024
_SOURCES_A_WORD: Final = 2


class _Program(ctypes.Structure):
    """`struct sock_fprog` (linux/filter.h)."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class LinuxFilter:
    """The filter of one socket; see `interface.SocketFilter`.

    Args:
        sock: A UDP socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        ipv6 = sock.family == socket.AF_INET6
        self._hears = Hears(ipv4=not ipv6 or is_dual_stack(sock), ipv6=ipv6)
        self._secret = Secret(secrets.randbits)
        self._networks: dict[tuple[int, bytes], None] = {}
        self._hosts: set[int] = set()
        """Prints of hosts, any port of which is let in."""
        self._peers: dict[Token, tuple[int, int]] = {}
        """Peers, with their prints and those of their hosts."""
        self._bloom: BloomProgram | None = None
        self._most_words = _MOST_WORDS
        """What this machine has room for."""
        self.attached: bool = False

    def attach(self, tokens: Iterable[Token], *, anew: bool = True) -> None:
        """See `SocketFilter.attach`."""
        if anew:
            self._secret, self._peers = Secret(secrets.randbits), {}
        known, self._networks, self._hosts, self._peers = self._peers, {}, set(), {}
        self._add(tokens, known)
        self._load(self._built())

    def extend(self, tokens: Iterable[Token]) -> None:
        """See `SocketFilter.extend`."""
        networks, hosts = len(self._networks), len(self._hosts)
        added = self._add(tokens, {})
        bloom = self._bloom
        if (
            bloom is None
            or networks != len(self._networks)
            or self._is_cramped(bloom)
            or (hosts != len(self._hosts) and not bloom.by_host)
        ):
            self._load(self._built())
        else:
            bloom.add([one[bloom.by_host] for one in added])
            self._load(bloom.program)

    def _is_cramped(self, bloom: BloomProgram) -> bool:
        """Whether there should be more words by now."""
        count = len(self._peers) + len(self._hosts)
        return count > bloom.words * _SOURCES_A_WORD and bloom.words < self._most_words

    def detach(self) -> None:
        """See `SocketFilter.detach`."""
        self.attached = False
        with contextlib.suppress(OSError):  # it is not there, or somebody locked it (SO_LOCK_FILTER)
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def _add(self, tokens: Iterable[Token], known: dict[Token, tuple[int, int]]) -> list[tuple[int, int]]:
        """Take these sources in; the prints of the peers and hosts among them, and of their hosts.

        Some may be known already.
        """
        added: list[tuple[int, int]] = []
        secret = self._secret
        for token in tokens:
            if isinstance(token, tuple):
                self._networks[token] = None
            elif len(token) in (IPV4_WIRE, IPV6_WIRE):
                prints = known.get(token)
                if prints is None:
                    # Whatever its scope: where the link is wrong, the registry says so.
                    host = secret.host(token[2:] if len(token) == IPV4_WIRE else token[6:22])
                    prints = (secret.peer(host, token[0] << 8 | token[1]), host)
                self._peers[token] = prints
                added.append(prints)
            else:
                host = secret.host(token[:16])
                self._hosts.add(host)
                added.append((host, host))
        return added

    def _built(self) -> bytearray:
        """The program for what is in now."""
        by_host = len(self._hosts) > (_MOST_LISTED if len(self._peers) <= _MOST_LISTED else _FEW_HOSTS)
        prints = {one[by_host] for one in self._peers.values()}
        if by_host:
            prints |= self._hosts
        self._bloom = None
        networks = list(self._networks)
        if len(prints) <= _MOST_LISTED:
            return list_program(self._secret, self._hears, networks, self._hosts, prints)
        wanted = 1 << (len(prints) // _SOURCES_A_WORD).bit_length()
        words = max(_FEWEST_WORDS, min(self._most_words, wanted))
        bloom = BloomProgram(self._secret, self._hears, networks, self._hosts, words, by_host=by_host)
        bloom.add(prints)
        self._bloom = bloom
        return bloom.program

    def _load(self, program: bytearray) -> None:
        """Attach a program; where it does not fit beside the old one, without that; or else a smaller one."""
        while True:
            try:
                self._set(program)
            except OSError as error:
                was_attached = self.attached
                self.detach()  # it knows less than what is expected now
                if error.errno != errno.ENOMEM:
                    raise
                if not was_attached:
                    if self._bloom is None or self._most_words <= _FEWEST_WORDS:
                        raise
                    self._most_words = self._bloom.words // 2
                    program = self._built()
            else:
                self.attached = True
                return

    def _set(self, program: bytearray) -> None:
        code = (ctypes.c_char * len(program)).from_buffer(program)
        head = _Program(len(program) // INSTRUCTION, ctypes.addressof(code))
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(head))


def has_filter(sock: socket.socket) -> bool:
    """Whether somebody attached a filter to this socket.

    Python's `getsockopt` can't ask: the kernel takes the buffer's size for a number of instructions, and would write
    past its end.

    Raises:
        OSError: The socket is closed, or the kernel knows no such filters.
    """
    size = ctypes.c_uint32(0)
    library = ctypes.CDLL(None, use_errno=True)
    if not library.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_GET_FILTER, None, ctypes.byref(size)):
        return size.value > 0
    error = last_error()
    if error.errno != errno.EACCES:  # that is one which is no classic program (SO_ATTACH_BPF)
        raise error
    return True
