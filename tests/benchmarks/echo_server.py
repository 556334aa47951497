"""An echo server for 127.0.0.0/8 as `echo_server.c` is, where there is no C compiler. Linux only, and slower.

    python echo_server.py [awake]

It prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from typing import Final

# <bits/in.h>; `socket` has it since Python 3.14.
IP_PKTINFO: Final = 8
PKTINFO: Final = struct.Struct("=i4s4s")  # interface, address to send from, address it was sent to
BUFFER: Final = 16 << 20
DRAIN: Final = 256


def main() -> None:
    """Answer until standard input ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.bind(("0.0.0.0", 0))
        sock.setblocking(False)
        print(sock.getsockname()[1], flush=True)
        patience = 0 if sys.argv[1:] == ["awake"] else None
        while sys.stdin not in (ready := select.select([sock, sys.stdin], [], [], patience)[0]):
            if sock in ready:
                answer_waiting(sock)


def answer_waiting(sock: socket.socket) -> None:
    """Answer what has come, so many at most."""
    for _ in range(DRAIN):
        try:
            data, control, _, client = sock.recvmsg(2048, socket.CMSG_SPACE(PKTINFO.size))
        except BlockingIOError:
            return
        _, _, asked = PKTINFO.unpack(control[0][2])
        info = PKTINFO.pack(0, asked, bytes(4))
        sock.sendmsg([data], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, client)


if __name__ == "__main__":
    main()
