"""The C structures and functions of Linux that Python's `socket` lacks, by `ctypes`.

Layouts are those of `man 2 recvmmsg`, `man 2 recvmsg` and `man 7 ip`; their sizes are asserted, so that a machine on
which they differ has none of this rather than something that writes where it should not.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final

MSG_DONTWAIT: Final = 0x40
MSG_TRUNC: Final = 0x20

SO_TIMESTAMPNS: Final = 35
CMSG_TIMESPEC: Final = 32
"""The room that a control message with a `struct timespec` takes where a long has 64 bits (`man 3 cmsg`)."""
STAMP_KIND: Final = int.from_bytes(struct.pack("=ii", socket.SOL_SOCKET, SO_TIMESTAMPNS), sys.byteorder)
"""Its level and type, read as one number."""
KIND_AT: Final = 8
"""Where these begin in it."""
TIMESPEC_AT: Final = 16
"""Where the timespec begins in it: seconds and nanoseconds, 64 bits each."""

SOCKADDR_IN: Final = 16
"""The size of a `struct sockaddr_in`: family, port, address, eight bytes of padding."""
SOCKADDR_IN6: Final = 28
"""The size of a `struct sockaddr_in6`: family, port, flow label, address, scope."""


class Iovec(ctypes.Structure):
    """`struct iovec`: a piece of memory."""

    _fields_ = (("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t))


class Msghdr(ctypes.Structure):
    """`struct msghdr`: one datagram. `msg_iovlen` and `msg_controllen` are as wide as the kernel has them."""

    _fields_ = (
        ("msg_name", ctypes.c_void_p),
        ("msg_namelen", ctypes.c_uint32),
        ("msg_iov", ctypes.c_void_p),
        ("msg_iovlen", ctypes.c_size_t),
        ("msg_control", ctypes.c_void_p),
        ("msg_controllen", ctypes.c_size_t),
        ("msg_flags", ctypes.c_int),
    )


class Mmsghdr(ctypes.Structure):
    """`struct mmsghdr`: one of several datagrams, and how many bytes of it were sent or received."""

    _fields_ = (("msg_hdr", Msghdr), ("msg_len", ctypes.c_uint32))


class Functions:
    """`recvmmsg` and `sendmmsg` of the C library.

    Raises:
        OSError: The C library has them not, or the structures are of other sizes than are known here.
    """

    __slots__ = ("recvmmsg", "sendmmsg")

    def __init__(self) -> None:
        word = ctypes.sizeof(ctypes.c_void_p)
        sizes = tuple(map(ctypes.sizeof, (Iovec, Msghdr, Mmsghdr)))
        if sizes != ((16, 56, 64) if word == 8 else (8, 28, 32)):
            raise OSError(errno.ENOSYS, f"struct iovec, msghdr and mmsghdr have unknown sizes: {sizes}")
        library = ctypes.CDLL(None, use_errno=True)
        try:
            recvmmsg, sendmmsg = library.recvmmsg, library.sendmmsg
        except AttributeError as error:
            raise OSError(errno.ENOSYS, str(error)) from None
        pointer, number = ctypes.c_void_p, ctypes.c_int
        recvmmsg.argtypes = (number, pointer, ctypes.c_uint, number, pointer)
        sendmmsg.argtypes = (number, pointer, ctypes.c_uint, number)
        self.recvmmsg: Callable[[int, int, int, int, int | None], int] = recvmmsg
        """Socket, headers, how many, flags, time-out; how many were received, or -1."""
        self.sendmmsg: Callable[[int, int, int, int], int] = sendmmsg
        """Socket, headers, how many, flags; how many were sent, or -1."""


def last_error() -> OSError:
    """What the latest of these functions failed with."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
