"""What questions and answers look like in the simulation: each says which exchange, and which send, it belongs to.

    bytes  0-1   the id that program X picks; ff ff in the datagrams of others
           2-5   the id that udpguard picks for program Y; ff ff ff ff in the datagrams of others
           6     what it is
           7-14  the number of the exchange, unique in a simulation
           15    the send it belongs to, where the program says; else 255
           16    of answers: how often the server had heard that question by then

Nothing but these bytes tells the truth about a datagram, and udpguard knows nothing of them but the ids.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from udpguard import TransactionId

_QUESTION: Final = struct.Struct("!2s4scQB")
_ANSWER: Final = struct.Struct("!2s4scQBB")

NO_X: Final = b"\xff\xff"
NO_Y: Final = b"\xff\xff\xff\xff"
ANY_SEND: Final = 255
"""Where all sends of an exchange are the same bytes."""

# What a question asks for.
PLAIN: Final = b"q"
SIGN_OF_LIFE_FIRST: Final = b"p"
JUNK_FIRST: Final = b"j"
NOTHING: Final = b"n"
# What an answer is.
TRUE: Final = b"A"
TOLD: Final = b"T"
"""What sessions and discoveries are told."""
SIGN_OF_LIFE: Final = b"P"
JUNK: Final = b"J"
FORGED: Final = b"F"

OWN_IDS: Final = TransactionId(0, 2)
"""Program X's."""
ASSIGNED_4: Final = TransactionId(2, 4, assign=True)
"""Program Y's."""
ASSIGNED_2: Final = TransactionId(2, 2, assign=True)


class Answer(NamedTuple):
    """An answer, taken apart."""

    x: bytes
    y: bytes
    mark: bytes
    number: int
    send: int
    heard: int


def question(x: bytes, y: bytes, kind: bytes, number: int, send: int) -> bytes:
    """A question's bytes."""
    return _QUESTION.pack(x, y, kind, number, send)


def kind_of(data: bytes) -> bytes:
    """What a question asks for."""
    return data[6:7]


def number_of(data: bytes) -> int:
    """The number of the exchange that a datagram belongs to."""
    return int.from_bytes(data[7:15], "big")


def answer_to(data: bytes, mark: bytes, heard: int) -> bytes:
    """The answer to a question, as servers and forgers give it."""
    return data[:6] + mark + data[7:16] + min(heard, 255).to_bytes(1, "big")


def read(data: bytes) -> Answer:
    """Take an answer apart."""
    return Answer._make(_ANSWER.unpack(data))
