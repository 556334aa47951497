"""What is drawn is drawn evenly, by Pearson's chi-square; from fixed seeds, so that chance breaks no build."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from odds_draws import (
    RANGE,
    assigned_ids,
    biased_bits,
    ports_of_a_pool,
    ports_of_a_range,
    ports_of_requests,
)  # fmt: skip
from odds_kit import chi_square_sigmas

DRAWS = 100_000
SIGMAS = 3.5


@pytest.fixture
def no_reserved_ports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An administrator's list of reserved ports: none, unless a test writes some."""
    path = tmp_path / "reserved"
    monkeypatch.setattr("udpguard._ports._RESERVED", path)
    return path


def assert_even(numbers: list[int], cells: int) -> None:
    sigmas = chi_square_sigmas(Counter(numbers), cells)
    assert abs(sigmas) <= SIGMAS, sigmas


@pytest.mark.parametrize("pool", [2, 3, 4, 7, 16, 64, 1_000])
def test_ports_of_a_pool(pool: int) -> None:
    drawn = ports_of_a_pool(DRAWS, pool, Random(f"pool {pool}").getrandbits)
    assert_even(drawn, pool)
    pairs = [first * pool + second for first, second in zip(drawn[::2], drawn[1::2], strict=True)]
    if pool <= 64:
        assert_even(pairs, pool * pool)  # nor does one tell anything of the next


@pytest.mark.parametrize("kwargs", [{}, {"reply_from": "host"}], ids=["the short way", "the long way"])
def test_ports_of_a_pool_that_requests_really_leave_from(kwargs: Any) -> None:
    assert_even(ports_of_requests(4_000, 8, 5, **kwargs), 8)


def test_ports_of_a_range(no_reserved_ports: Path) -> None:
    drawn = ports_of_a_range(DRAWS, Random("range").getrandbits)
    assert RANGE[0] <= min(drawn) <= max(drawn) <= RANGE[1]
    offsets = [port - RANGE[0] for port in drawn]
    assert_even(offsets, 64_512)
    assert_even([offset // 256 for offset in offsets], 252)
    assert_even([offset % 256 for offset in offsets], 256)
    assert_even([(b - a) % 64_512 // 256 for a, b in zip(offsets[::2], offsets[1::2], strict=True)], 252)


def test_ports_of_a_range_where_some_are_taken_or_reserved(no_reserved_ports: Path) -> None:
    no_reserved_ports.write_text("1024-2047,8080,60000-65535\n", encoding="ascii")
    drawn = ports_of_a_range(DRAWS, Random("taken").getrandbits, lambda port: port % 2 == 1)
    left = [port for port in range(2048, 60_000, 2) if port != 8080]
    ranks = {port: rank for rank, port in enumerate(left)}
    assert_even([ranks[port] for port in drawn], len(left))


@pytest.mark.parametrize("length", [1, 2])
def test_assigned_ids(length: int) -> None:
    drawn = assigned_ids(DRAWS, length, Random(f"ids {length}").getrandbits)
    assert_even(drawn, 256**length)
    assert_even([number & 255 for number in drawn], 256)
    assert_even([number >> 8 * (length - 1) for number in drawn], 256)


def test_assigned_ids_of_four_and_eight_bytes_are_even_in_each_byte() -> None:
    for length in (4, 8):
        drawn = assigned_ids(20_000, length, Random(f"ids {length}").getrandbits)
        for shift in range(0, 8 * length, 8):
            assert_even([number >> shift & 255 for number in drawn], 256)


def test_one_id_tells_nothing_of_the_next_with_the_same_peer() -> None:
    """But that it is another one: those lately used are left alone."""
    drawn = assigned_ids(DRAWS // 2, 1, Random("steps").getrandbits, each=2)
    steps = [(second - first) % 256 for first, second in zip(drawn[::2], drawn[1::2], strict=True)]
    assert 0 not in steps
    assert_even([step - 1 for step in steps], 255)


def test_all_256_ids_of_a_peer_come_in_an_even_order() -> None:
    """Also once draws fail, and the rest comes from a queue: each id is as likely to be the last."""
    drawn = assigned_ids(256 * 200, 1, Random("order").getrandbits, each=256)
    for turn in (0, 100, 200, 255):
        assert_even(drawn[turn::256], 256)


def test_a_source_that_is_not_even_is_found_out(no_reserved_ports: Path) -> None:
    """What these tests are worth: with bits that are ones in 33 of 64 draws, each of them fails."""
    bits = biased_bits(Random(4))
    drawn = ports_of_a_pool(DRAWS, 2, bits), [port % 2 for port in ports_of_a_range(DRAWS, bits)]
    ids = [number & 1 for number in assigned_ids(DRAWS, 1, bits, each=2)]
    for numbers in (*drawn, ids):
        assert chi_square_sigmas(Counter(numbers), 2) > SIGMAS


def test_the_measure_itself() -> None:
    assert chi_square_sigmas(Counter({0: 50_000, 1: 50_000}), 2) < -1, "too good to be true"
    assert abs(chi_square_sigmas(Counter({0: 50_100, 1: 49_900}), 2)) < 1
    assert chi_square_sigmas(Counter({0: 51_000, 1: 49_000}), 2) > 4
    assert chi_square_sigmas(Counter({0: 1_000}), 10) > 50
