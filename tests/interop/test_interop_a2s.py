"""a2s_info.py and python-a2s, which others have written, ask the same server and are told the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import a2s
import pytest
from interop_a2s import Game

from udpguard.testing import Server

pytestmark = pytest.mark.interop


async def test_both_clients_are_told_the_same(run_example: Callable[..., str]) -> None:
    game = Game()
    async with Server(game.answer) as server:
        theirs = await asyncio.to_thread(a2s.info, server.address, timeout=10.0)
        host, port = server.address
        printed = await asyncio.to_thread(run_example, "a2s_info.py", "--timeout", "10", f"{host}:{port}")
    assert game.challenged == 2
    assert isinstance(theirs, a2s.SourceInfo)
    assert printed.splitlines() == [
        f"name:       {theirs.server_name}",
        f"map:        {theirs.map_name}",
        f"game:       {theirs.game} ({theirs.folder}, {theirs.game_id})",
        f"players:    {theirs.player_count} of {theirs.max_players}, {theirs.bot_count} of them bots",
        f"server:     dedicated, Linux, version {theirs.version}",
        f"password:   {'needed' if theirs.password_protected else 'none'}",
        f"anti-cheat: {'on' if theirs.vac_enabled else 'off'}",
        f"game port:  {theirs.port}",
        f"SourceTV:   {theirs.stv_name}, port {theirs.stv_port}",
        f"keywords:   {theirs.keywords}",
    ]
    assert (theirs.platform, theirs.server_type, theirs.steam_id) == ("l", "d", game.steam_id)


async def test_a_server_that_says_no_more_than_it_must(run_example: Callable[..., str]) -> None:
    game = Game(has_extras=False, is_locked=False, kind=b"l", system=b"w")
    async with Server(game.answer) as server:
        theirs = await asyncio.to_thread(a2s.info, server.address, timeout=10.0)
        host, port = server.address
        printed = await asyncio.to_thread(run_example, "a2s_info.py", "--timeout", "10", f"{host}:{port}")
    assert isinstance(theirs, a2s.SourceInfo)
    assert (theirs.port, theirs.keywords) == (None, None)
    assert printed.splitlines()[2:] == [
        f"game:       {theirs.game} ({theirs.folder}, {theirs.app_id})",
        f"players:    {theirs.player_count} of {theirs.max_players}, {theirs.bot_count} of them bots",
        f"server:     not dedicated, Windows, version {theirs.version}",
        "password:   none",
        "anti-cheat: on",
    ]
