"""Sends junk as `junk_sender.c` does, where there is no C compiler; at whatever rate Python can.

python junk_sender.py PORT RATE SECONDS
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time
from typing import Final

PAYLOAD: Final = b"\xff" * 32
TICK: Final = 0.001


def main() -> None:
    """Send until the time is up, or standard input ends."""
    port, rate, length = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.200.0.1", 0))
        sock.connect(("127.0.0.1", port))
        started = time.monotonic()
        print("started", flush=True)
        while (elapsed := time.monotonic() - started) < length and not select.select([sys.stdin], [], [], 0)[0]:
            due = int(elapsed * rate) - sent
            for _ in range(min(due, 1000)):
                with contextlib.suppress(ConnectionRefusedError):
                    sock.send(PAYLOAD)
                sent += 1
            if due < 1000:
                time.sleep(TICK)
    print(json.dumps({"started": started, "ended": time.monotonic(), "sent": sent}), flush=True)


if __name__ == "__main__":
    main()
