"""What scripts that ask one server do where no answer comes: they say so in a line, and end."""

from __future__ import annotations

import pytest
from example_kit import (
    HASTY,
    INTERRUPTED,
    PATIENT,
    free_address,
    lines_of,
    needs_ctrl_c,
    needs_icmp,
    serving,
    silent,
    talking,
)

# The arguments but --timeout, where {at} is the server; and what stands before the reason.
SCRIPTS = {
    "a2s_info.py": (["{at}"], ""),
    "coap_get.py": (["coap://{at}/x"], ""),
    "memcached_get.py": (["{at}", "a-key"], "a-key: "),
}
every_script = pytest.mark.parametrize("script", SCRIPTS)


def arguments(script: str, at: str, timeout: str) -> list[str]:
    return ["--timeout", timeout, *(each.format(at=at) for each in SCRIPTS[script][0])]


async def told(script: str, at: str, timeout: str) -> str:
    """What it says on stderr; it fails, and says nothing else."""
    status, out, (line,) = await lines_of(script, *arguments(script, at, timeout))
    assert (status, out) == (1, [])
    return line


@every_script
async def test_a_silent_server_is_told_of(script: str) -> None:
    async with serving(silent) as (server,):
        line = await told(script, server.at, HASTY)
    assert line.startswith(f"{SCRIPTS[script][1]}no reply from {server.at} in {HASTY} s ")


@needs_icmp
@every_script
async def test_a_closed_port_is_told_of_at_once(script: str) -> None:
    at = str(free_address())
    line = await told(script, at, PATIENT)
    assert line.startswith(f"{SCRIPTS[script][1]}{at} refused: ")


@every_script
async def test_a_name_that_nobody_has_is_told_of(script: str) -> None:
    line = await told(script, "no.such.host.invalid", PATIENT)
    assert "'no.such.host.invalid': is " in line  # spelt right, or the network up


@needs_ctrl_c
@every_script
async def test_ctrl_c_ends_it(script: str) -> None:
    async with serving(silent) as (server,):
        with talking(script, *arguments(script, server.at, PATIENT)) as talk:
            await server.first_request()
            talk.interrupt()
            assert await talk.end() == (INTERRUPTED, "", "")
