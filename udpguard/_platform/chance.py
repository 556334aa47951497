"""Numbers that nobody can guess.

They are those of `secrets.randbits`. That module takes its time to load, since it can make tokens and compare digests.
"""

from __future__ import annotations

import os


def random_bits(count: int) -> int:
    """So many bits from the operating system's source, `getrandom` in `man 2 getrandom`.

    Args:
        count: More than zero.
    """
    return int.from_bytes(os.urandom(-(-count // 8))) >> -count % 8
