"""Classic BPF programs that tell expected sources from strangers: built here, without a socket.

Theory of operation
-------------------
A program sees one datagram before it is queued: offset 0 is the UDP header, with the source port first; the IP header
is at `_NETWORK`. It returns how many bytes to keep, counted from the UDP header: all of them, or none.

It first makes a **print** of the source: 32 bits, word by word of the address, then the port, each word mixed in with a
secret multiplier. An IPv4 source has the print of its mapped IPv6 form, so that a socket that hears both needs one
table. Before the port goes in, the same number is the print of the host. What follows are tables of prints:

- a **list** is a search tree over sorted prints, eight to a leaf. A stranger has the print of one of n sources with
  odds of n to 2**32, and nobody can know which strangers do.
- a **Bloom filter** is a search tree over words of 32 bits; a source has three bits in one word. Its size does not grow
  with the number of sources, and no source that was added is ever stopped; how many strangers pass follows from how
  full it is: about 1 % with two sources to a word, 4 % with four, 15 % with eight.

Networks are compared one by one, with their masks. A jump on a condition reaches 255 instructions ahead, an
unconditional one reaches everywhere: where it is far, the first jumps over the second.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

Instruction: TypeAlias = tuple[int, int, int, int]
"""`struct sock_filter` (linux/filter.h): code, how far to jump if true, if false, and a number."""
RandomBits: TypeAlias = Callable[[int], int]

MOST_INSTRUCTIONS: Final = 4_096
"""BPF_MAXINSNS."""
PASS: Final = 0xFFFF_FFFF
INSTRUCTION: Final = struct.calcsize("=HBBI")
"""The size of one."""
_NUMBER_AT: Final = 4
"""Where the number begins in an instruction."""

# linux/bpf_common.h, by the names that the kernel's documentation has for them (networking/filter.rst).
_LD_IMM: Final = 0x00
_LD_ABS: Final = 0x20
_LDH_ABS: Final = 0x28
_LDB_ABS: Final = 0x30
_LD_MEM: Final = 0x60
_LDX_IMM: Final = 0x01
_LDX_MEM: Final = 0x61
_ST: Final = 0x02
_ADD_X: Final = 0x0C
_MUL: Final = 0x24
_AND: Final = 0x54
_RSH: Final = 0x74
_RSH_X: Final = 0x7C
_XOR_X: Final = 0xAC
_JA: Final = 0x05
_JEQ: Final = 0x15
_JGE: Final = 0x35
_JSET: Final = 0x45
_RET: Final = 0x06
_TAX: Final = 0x07
_TXA: Final = 0x87

_NETWORK: Final = 0xFFF0_0000
"""SKF_NET_OFF: where the IP header is."""
_SOURCE4: Final = _NETWORK + 12
_SOURCE6: Final = _NETWORK + 8
_FARTHEST: Final = 255
_LEAF: Final = 8
_ALL: Final = 0xFFFF_FFFF
_FOLD: Final = 15
_MAPPED: Final = bytes(10) + b"\xff\xff"


class Secret:
    """What prints are made with: nobody outside can tell which sources share one.

    Args:
        random_bits: Gives so many unpredictable bits, as `secrets.randbits` does.
    """

    __slots__ = ("_after_mapped", "multipliers", "start")

    def __init__(self, random_bits: RandomBits) -> None:
        self.start: int = random_bits(32)
        self.multipliers: tuple[int, ...] = tuple(random_bits(32) | 1 for _ in range(5))
        """For the four words of an address and the port; odd, so that no bit gets lost."""
        self._after_mapped: int = self._mixed(self.start, struct.unpack("!3I", _MAPPED))

    @property
    def start4(self) -> int:
        """The print of what an IPv4 address begins with, once it is mapped."""
        return self._after_mapped

    def host(self, packed: bytes) -> int:
        """The print of a host."""
        if len(packed) == 4:
            state = (self._after_mapped + int.from_bytes(packed, "big")) * self.multipliers[3] & _ALL
            return state ^ state >> _FOLD
        return self._mixed(self.start, struct.unpack("!4I", packed))

    def peer(self, host: int, port: int) -> int:
        """The print of a port of the host with this print."""
        state = (host + port) * self.multipliers[4] & _ALL
        return state ^ state >> _FOLD

    def _mixed(self, state: int, words: Iterable[int]) -> int:
        for multiplier, word in zip(self.multipliers, words, strict=False):
            state = (state + word) * multiplier & _ALL
            state ^= state >> _FOLD
        return state


class Hears:
    """What a socket hears: IPv4, IPv6, or both.

    Args:
        ipv4: Whether it hears IPv4.
        ipv6: Whether it hears IPv6.
    """

    __slots__ = ("ipv4", "ipv6")

    def __init__(self, *, ipv4: bool, ipv6: bool) -> None:
        self.ipv4: bool = ipv4
        self.ipv6: bool = ipv6


def packed_program(code: Sequence[Instruction]) -> bytearray:
    """A program as the kernel takes it."""
    program = bytearray(len(code) * INSTRUCTION)
    for place, instruction in enumerate(code):
        struct.pack_into("=HBBI", program, place * INSTRUCTION, *instruction)
    return program


def list_program(
    secret: Secret, hears: Hears, networks: Sequence[tuple[int, bytes]], hosts: Iterable[int], peers: Iterable[int]
) -> bytearray:
    """Let in what is from one of these networks, hosts and peers: lists of prints, but for the networks."""
    code = _beginning(secret, hears, networks)
    by_host = sorted(set(hosts))
    if by_host:
        code += [(_TXA, 0, 0, 0), *_tree(by_host, stops=False)]
    code += _port_mixed_in(secret)
    code += _tree(sorted(set(peers)), stops=True)
    return packed_program(code)


class BloomProgram:
    """A program around a Bloom filter. Sources are added by their prints; it never grows.

    Args:
        secret: What the prints are made with.
        hears: What the socket hears.
        networks: Let these in as well.
        hosts: And these hosts, by their prints.
        words: Its size in words of 32 bits, a power of two.
        by_host: Whether the prints are hosts', and ports don't matter.
    """

    __slots__ = ("_numbers_at", "_program", "_shift", "_words", "by_host", "words")

    def __init__(
        self,
        secret: Secret,
        hears: Hears,
        networks: Sequence[tuple[int, bytes]],
        hosts: Iterable[int],
        words: int,
        *,
        by_host: bool,
    ) -> None:
        self.words: int = words
        self.by_host: bool = by_host
        self._words = [0] * words
        self._shift = 32 - (words.bit_length() - 1)
        code = _beginning(secret, hears, networks)
        if by_host:
            code.append((_TXA, 0, 0, 0))
        else:
            lists = sorted(set(hosts))
            if lists:
                code += [(_TXA, 0, 0, 0), *_tree(lists, stops=False)]
            code += _port_mixed_in(secret)
        # A has the print: the word's number comes from its upper bits, the three bits of it from the lower fifteen.
        code += [(_ST, 0, 0, 0), (_AND, 0, 0, 31), (_ST, 0, 0, 1)]
        code += [(_LD_MEM, 0, 0, 0), (_RSH, 0, 0, 5), (_AND, 0, 0, 31), (_ST, 0, 0, 2)]
        code += [(_LD_MEM, 0, 0, 0), (_RSH, 0, 0, 10), (_AND, 0, 0, 31), (_ST, 0, 0, 3)]
        code += [(_LD_MEM, 0, 0, 0), (_RSH, 0, 0, self._shift)]
        tree = _choice(0, words)
        leaves = [place for place, instruction in enumerate(tree) if instruction is _WORD]
        self._numbers_at = [(len(code) + place) * INSTRUCTION + _NUMBER_AT for place in leaves]
        # Each word is followed by a jump to what is behind the tree.
        tree = [(_JA, 0, 0, len(tree) - place - 1) if one is _ONWARD else one for place, one in enumerate(tree)]
        code += [*tree, (_ST, 0, 0, 0)]
        for bit, missing in ((1, 9), (2, 5), (3, 1)):
            code += [(_LD_MEM, 0, 0, 0)] if bit > 1 else []
            code += [(_LDX_MEM, 0, 0, bit), (_RSH_X, 0, 0, 0), (_JSET, 0, missing, 1)]
        code += [(_RET, 0, 0, PASS), (_RET, 0, 0, 0)]
        self._program = packed_program(code)

    def add(self, prints: Iterable[int]) -> None:
        """Let these in from now on."""
        words, shift = self._words, self._shift
        changed: set[int] = set()
        for print_ in prints:
            place = print_ >> shift
            words[place] |= 1 << (print_ & 31) | 1 << (print_ >> 5 & 31) | 1 << (print_ >> 10 & 31)
            changed.add(place)
        for place in changed:
            struct.pack_into("=I", self._program, self._numbers_at[place], words[place])

    @property
    def program(self) -> bytearray:
        """It as it is now."""
        return self._program


# What stands in a tree until its places are known.
_WORD: Final[Instruction] = (_LD_IMM, 0, 0, 0)
_ONWARD: Final[Instruction] = (_JA, 0, 0, 0)


def _beginning(secret: Secret, hears: Hears, networks: Sequence[tuple[int, bytes]]) -> list[Instruction]:
    """Let in what is in one of the networks; of anything else have the print of the host in X."""
    ipv4 = [*_networks(networks, 4, _SOURCE4), (_LDX_IMM, 0, 0, secret.start4), *_mixed_in(secret, 3, _SOURCE4)]
    ipv6 = [*_networks(networks, 16, _SOURCE6), (_LDX_IMM, 0, 0, secret.start)]
    for number in range(4):
        ipv6 += _mixed_in(secret, number, _SOURCE6 + 4 * number)
    if not hears.ipv6:
        return ipv4
    if not hears.ipv4:
        return ipv6
    ipv4.append((_JA, 0, 0, len(ipv6)))
    version = [(_LDB_ABS, 0, 0, _NETWORK), (_RSH, 0, 0, 4), (_JEQ, 1, 0, 4), (_JA, 0, 0, len(ipv4))]
    return [*version, *ipv4, *ipv6]


def _mixed_in(secret: Secret, number: int, offset: int, load: int = _LD_ABS) -> list[Instruction]:
    """Mix a word of the datagram into the print in X; A has it as well then."""
    return [
        (load, 0, 0, offset),
        (_ADD_X, 0, 0, 0),
        (_MUL, 0, 0, secret.multipliers[number]),
        (_TAX, 0, 0, 0),
        (_RSH, 0, 0, _FOLD),
        (_XOR_X, 0, 0, 0),
        (_TAX, 0, 0, 0),
    ]


def _port_mixed_in(secret: Secret) -> list[Instruction]:
    return _mixed_in(secret, 4, 0, _LDH_ABS)


def _networks(networks: Sequence[tuple[int, bytes]], size: int, offset: int) -> list[Instruction]:
    """Let in what is in one of the networks of this family."""
    code: list[Instruction] = []
    for length, packed in networks:
        if len(packed) != size:
            continue
        whole = int.from_bytes(packed, "big")
        mask = (1 << length) - 1 << (size * 8 - length)
        tests: list[tuple[int, int, int]] = []
        for begin in range(0, size, 4):
            shift = (size - begin - 4) * 8
            part = mask >> shift & _ALL
            if part:
                tests.append((begin, part, whole >> shift & _ALL))
        for left, (begin, part, wanted) in zip(range(len(tests) - 1, -1, -1), tests, strict=True):
            code += [(_LD_ABS, 0, 0, offset + begin), (_AND, 0, 0, part), (_JEQ, 0, 3 * left + 1, wanted)]
        code.append((_RET, 0, 0, PASS))
    return code


def _tree(prints: Sequence[int], *, stops: bool) -> list[Instruction]:
    """Let in what has one of these prints in A; else stop it, or go on behind this."""
    code = _search(prints)
    return [_missed(stops, len(code) - place - 1) if one is _ONWARD else one for place, one in enumerate(code)]


def _missed(stops: bool, left: int) -> Instruction:  # noqa: FBT001
    return (_RET, 0, 0, 0) if stops else (_JA, 0, 0, left)


def _search(prints: Sequence[int]) -> list[Instruction]:
    count = len(prints)
    if count <= _LEAF:
        found: list[Instruction] = [(_JEQ, count - place, 0, one) for place, one in enumerate(prints)]
        return [*found, _ONWARD, (_RET, 0, 0, PASS)] if found else [_ONWARD]
    middle = count // 2
    return _fork(prints[middle], _search(prints[:middle]), _search(prints[middle:]))


def _choice(first: int, count: int) -> list[Instruction]:
    """Have the word of this number, from the first on, in A."""
    if count == 1:
        return [_WORD, _ONWARD]
    half = count // 2
    return _fork(first + half, _choice(first, half), _choice(first + half, count - half))


def _fork(border: int, below: list[Instruction], above: list[Instruction]) -> list[Instruction]:
    """Go on below or above, as A is less than the border or not."""
    if len(below) <= _FARTHEST:
        return [(_JGE, len(below), 0, border), *below, *above]
    return [(_JGE, 0, 1, border), (_JA, 0, 0, len(below)), *below, *above]
