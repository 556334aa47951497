"""A file of 10 MB fetched by TFTP through 10 % loss, while 100 other sessions go on over the same socket: is it right?

    python tests/interop/run.py [--megabytes N] [--loss SHARE] [--sessions N] [--block-size N] [--seed N]

Needs in.tftpd (Debian's tftpd-hpa), and root to start it. The exit status is 1 if one byte of the file is wrong; a
session that hears anything but its own answer ends it with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import interop_servers
from interop_tftp import fetch_among_sessions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=10.0)
    parser.add_argument("--loss", type=float, default=0.1)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--block-size", type=int, default=1428)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "file"
        content = secrets.token_bytes(round(arguments.megabytes * 1_000_000))
        path.write_bytes(content)
        with interop_servers.tftpd(Path(name)) as tftpd:
            outcome = asyncio.run(
                fetch_among_sessions(
                    tftpd,
                    str(path),
                    content,
                    loss=arguments.loss,
                    sessions=arguments.sessions,
                    block_size=arguments.block_size,
                    seed=arguments.seed,
                )
            )
    print(f"{outcome.size:,} bytes in {outcome.blocks:,} blocks in {outcome.seconds:.1f} s: ", end="")
    print("byte for byte right" if outcome.is_right else "WRONG")
    print(f"through the relay: {outcome.sent_through:,} datagrams, {outcome.lost:,} of them lost")
    print(f"sent again by the client: {outcome.retransmitted:,}")
    print(
        f"{arguments.sessions} other sessions: {outcome.conversations:,} exchanges, at least {outcome.fewest:,} each, "
        f"and all right"
    )
    print(f"local ports in use: {outcome.ports}; {outcome.statistics}")
    return 0 if outcome.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
