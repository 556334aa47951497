"""The contestant that blocks: one socket, `sendto` and `recvfrom`, a window of exchanges at a time.

I in flight means: send I, receive I, and again. The source of each reply is checked by hand. This is no design that
waits well (the slowest peer of a window holds up all), but it shows what Python's own socket calls cost.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Sequence

from bench_work import FILLER, RECEIVE_BUFFER, TIMEOUT, Address, Figures, Plan, Stopwatch, peers_at


def work(plan: Plan) -> Figures:
    """Warm up, do the work, and say how it went; a loss in the warm-up ends it."""
    peers = peers_at(plan.port, plan.peers)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind(("0.0.0.0", 0))
        sock.settimeout(TIMEOUT)
        for numbers in plan.halves():
            figures = span(sock, peers, plan.in_flight, numbers)
            if figures.lost:
                return figures
        gc.collect()
        return span(sock, peers, plan.in_flight, plan.enough(figures))


def span(sock: socket.socket, peers: Sequence[Address], in_flight: int, numbers: range) -> Figures:
    """Do the exchanges of these numbers, timed; the first window with a loss is the last."""
    figures = Figures()
    with Stopwatch(figures):
        for start in range(0, len(numbers), in_flight):
            _window(sock, peers, numbers[start : start + in_flight], figures)
            if figures.lost:
                break
    return figures


def _window(sock: socket.socket, peers: Sequence[Address], numbers: range, figures: Figures) -> None:
    expected: dict[Address, bytes] = {}
    for number in numbers:
        peer = peers[number % len(peers)]
        data = number.to_bytes(8, "big") + FILLER
        expected[peer] = data
        sock.sendto(data, peer)
    for got in range(len(numbers)):
        try:
            reply, source = sock.recvfrom(65_536)
        except OSError as error:
            figures.lose(error)
            figures.lost += len(numbers) - got - 1
            return
        if expected.pop(source, None) == reply:
            figures.right += 1
        else:
            figures.wrong += 1
