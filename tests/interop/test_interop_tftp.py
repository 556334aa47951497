"""TFTP (RFC 1350) with a real in.tftpd: the answer comes from a new port, and the session goes on there."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from interop_servers import Server
from interop_tftp import fetch_among_sessions

pytestmark = pytest.mark.interop


@pytest.fixture
def file(tftp_files: Path) -> Callable[[int], Path]:
    """Make a file of so many bytes that the server gives."""

    def make(size: int) -> Path:
        path = tftp_files / secrets.token_hex(8)
        path.write_bytes(secrets.token_bytes(size))
        return path

    return make


@pytest.mark.parametrize("size", [0, 1, 1427, 1428, 100_000])
def test_the_example_fetches_a_file(
    size: int, tftpd: Server, file: Callable[[int], Path], run_example: Callable[..., str], tmp_path: Path
) -> None:
    path = file(size)
    told = run_example("tftp_get.py", tftpd.at, str(path), "-o", str(tmp_path))
    assert told.startswith(f"{size:,} bytes in {size // 1428 + 1:,} blocks, ")
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("options", "blocks"),
    [(("--block-size", "512"), 196), (("--block-size", "65464"), 2), (("--server-timeout", "3"), 71)],
)
def test_the_server_heeds_its_options(
    options: tuple[str, ...],
    blocks: int,
    tftpd: Server,
    file: Callable[[int], Path],
    run_example: Callable[..., str],
    tmp_path: Path,
) -> None:
    path, fetched = file(100_000), tmp_path / "fetched"
    told = run_example("tftp_get.py", tftpd.at, str(path), "-o", str(fetched), *options)
    assert told.startswith(f"100,000 bytes in {blocks} blocks, ")
    assert fetched.read_bytes() == path.read_bytes()


@pytest.mark.once
def test_the_number_of_blocks_may_wrap(
    tftpd: Server, file: Callable[[int], Path], run_example: Callable[..., str], tmp_path: Path
) -> None:
    path, fetched = file(8 * 66_000), tmp_path / "fetched"
    told = run_example("tftp_get.py", tftpd.at, str(path), "-o", str(fetched), "--block-size", "8")
    assert told.startswith("528,000 bytes in 66,001 blocks, ")
    assert fetched.read_bytes() == path.read_bytes()


async def test_a_file_comes_through_loss_while_other_sessions_go_on(tftpd: Server, file: Callable[[int], Path]) -> None:
    """A slice of what `run.py` does whole."""
    path = file(100_000)
    content = path.read_bytes()
    outcome = await fetch_among_sessions(tftpd, str(path), content, loss=0.1, sessions=100, block_size=1428, seed=1)
    assert outcome.is_right
    assert outcome.blocks == 71
    assert outcome.lost > 5
    assert outcome.retransmitted > 0
    assert outcome.fewest > 0
    assert outcome.ports == 1
    statistics = outcome.statistics
    assert (statistics.timed_out, statistics.refused, statistics.unknown_peer) == (0, 0, 0)
