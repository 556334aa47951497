"""Names to ask a name server for: a file of them, how they are packed, and whether an answer is right.

Everybody asks for the same names in the same order, n00000000.ZONE and so on, from a file with one a line, as massdns
wants it. The packer is as small as one can be that sweeps a zone; it is part of what is measured.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

# One question, recursion desired; the id is the client's (RFC 1035, section 4.1.1).
_HEADER: Final = b"\0\0\1\0\0\1\0\0\0\0\0\0"
_TYPE_A_CLASS_IN: Final = b"\0\1\0\1"
# With a length in front: up to 63 bytes (RFC 1035, section 2.3.4).
_LENGTHS: Final = [bytes((length,)) for length in range(64)]
_LINES_AT_ONCE: Final = 10_000


def write_names(path: Path, count: int, zone: str) -> None:
    """Write the first so many names of the zone."""
    with path.open("w", encoding="ascii") as file:
        for start in range(0, count, _LINES_AT_ONCE):
            numbers = range(start, min(start + _LINES_AT_ONCE, count))
            file.write("".join(f"n{number:08}.{zone}\n" for number in numbers))


def question(line: bytes) -> bytes:
    """The question for the name in a line of the file, with the id 0.

    Raises:
        IndexError: A label is too long.
    """
    label, _, rest = line.partition(b".")
    return _HEADER + _LENGTHS[len(label)] + label + _rest(rest)


@functools.cache
def _rest(name: bytes) -> bytes:
    """All labels but the first, the root, and the type: the same for all names of a zone."""
    labels = name.strip().split(b".")
    return b"".join(_LENGTHS[len(label)] + label for label in labels if label) + b"\0" + _TYPE_A_CLASS_IN


def is_answer(question: bytes, reply: bytes) -> bool:
    """Whether a reply repeats the question, and has no error and an answer; its id is the client's business."""
    return (
        reply[12 : len(question)] == question[12:] and reply[2] > 127 and reply[3] & 15 == 0 and reply[6:8] != b"\0\0"
    )
