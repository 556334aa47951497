"""What ties a reply to its request: ids of the caller's, ids that are assigned, and correlators of one's own."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import random
import sys
import zlib
from collections.abc import Hashable
from typing import Any

import pytest
from loopback_kit import Server, assert_idle, cancelled, closed_port, echo, opened, turns, until

import udpguard
from udpguard import Correlator, Limits, Reason, Retry, TransactionId

KEYED = TransactionId(0, 2)
ASSIGNED = TransactionId(0, 2, assign=True)

needs_icmp = pytest.mark.skipif(
    sys.platform != "linux" or os.environ.get("UDPGUARD_BACKEND") == "portable", reason="dead servers are silent here"
)


def ask(client: udpguard.Client, server: Server, data: Any = b"x", **kwargs: Any) -> asyncio.Task[bytes]:
    kwargs.setdefault("timeout", 5.0)
    return asyncio.ensure_future(client.request(server.addr, data, **kwargs))


# ------------------------------------------------------------------------------------------------ ids


async def test_a_reply_needs_the_right_key() -> None:
    async with Server() as server, opened(correlate=KEYED) as endpoint:
        task = ask(endpoint, server, b"ab?")
        _, addr = await server.next()
        for wrong in (b"", b"a", b"ba!", b"\0\0!", b"AB!"):
            server.send(wrong, addr)
        server.send(b"ab!", addr)
        assert await task == b"ab!"
        assert endpoint.statistics().rejected == 5


async def test_replies_in_any_order_go_to_their_requests() -> None:
    async with Server() as server, opened(correlate=KEYED) as endpoint:
        tasks = [ask(endpoint, server, b"%02d" % i) for i in range(20)]
        await until(lambda: len(server.got) == 20)
        for data, addr in reversed(server.got):
            server.send(data + b"!", addr)
        assert await asyncio.gather(*tasks) == [b"%02d!" % i for i in range(20)]


async def test_an_id_elsewhere_in_the_reply() -> None:
    async with Server() as server, opened(correlate=TransactionId(4, 2, reply_offset=1)) as endpoint:
        one, two = ask(endpoint, server, b"----ab"), ask(endpoint, server, b"----cd")
        await server.next()
        _, addr = await server.next()
        server.send(b".cd two", addr)
        server.send(b".ab one", addr)
        assert await asyncio.gather(one, two) == [b".ab one", b".cd two"]


async def test_the_same_key_pending_twice_for_one_peer_is_a_duplicate_transaction() -> None:
    async with Server(echo) as server, Server(echo) as other, opened(correlate=KEYED) as endpoint:
        server.handler = None
        first = ask(endpoint, server, b"ab1")
        await server.next()
        with pytest.raises(udpguard.DuplicateTransactionError, match="assign=True") as caught:
            await ask(endpoint, server, b"ab2")
        assert (caught.value.peer, caught.value.transaction) == (server.addr, b"ab")
        assert isinstance(caught.value, ValueError)
        with pytest.raises(udpguard.DuplicateTransactionError):
            endpoint.expect(server.addr, transaction=b"ab")
        assert await ask(endpoint, other, b"ab to another peer") == b"ab to another peer"
        assert server.data == [b"ab1"], "nothing was sent for the duplicate"
        server.send(b"ab1", server.got[0][1])
        assert await first == b"ab1"
        server.handler = echo
        assert await ask(endpoint, server, b"ab3") == b"ab3"


async def test_a_request_too_short_for_a_key_takes_turns() -> None:
    async with Server() as server, opened(correlate=KEYED) as endpoint:
        tasks = [ask(endpoint, server, data) for data in (b"", b"1", b"2")]
        keyed = ask(endpoint, server, b"ab")
        await until(lambda: len(server.got) == 2)
        assert server.data == [b"", b"ab"]
        addr = server.got[0][1]
        server.send(b"ab", addr)
        assert await keyed == b"ab"
        for i, task in enumerate(tasks):
            await until(lambda i=i: len(server.got) == 2 + i or i == 0)  # type: ignore[misc]
            server.send(b"%d" % i, addr)
            assert await task == b"%d" % i


@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [
        ((-1, 2), {}, ValueError),
        ((0, 0), {}, ValueError),
        ((0, -1), {}, ValueError),
        ((0, 2), {"reply_offset": -1}, ValueError),
        (("0", 2), {}, TypeError),
        ((0, 2.0), {}, TypeError),
        ((True, 2), {}, TypeError),
    ],
)
def test_a_transaction_id_that_makes_no_sense(args: Any, kwargs: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        TransactionId(*args, **kwargs)


# ------------------------------------------------------------------------------------------------ assigned ids


async def test_a_thousand_requests_with_id_0_in_flight_to_one_peer_just_work() -> None:
    async with Server() as server, opened(correlate=ASSIGNED) as endpoint:
        tasks = [ask(endpoint, server, b"\0\0 question %d" % i, timeout=20.0) for i in range(1_000)]
        await until(lambda: len(server.got) == 1_000)
        assert endpoint.statistics().pending == 1_000
        assert len({data[:2] for data in server.data}) == 1_000, "each has an id of its own"
        assert [data[2:] for data in server.data] == [b" question %d" % i for i in range(1_000)]
        answers = list(server.got)
        random.Random(1).shuffle(answers)
        for data, addr in answers:
            server.send(data, addr)
        # The caller's own bytes are back in the reply.
        assert await asyncio.gather(*tasks) == [b"\0\0 question %d" % i for i in range(1_000)]


async def test_the_callers_own_bytes_are_put_back_whatever_they_were() -> None:
    async with Server(echo) as server, opened(correlate=TransactionId(1, 4, assign=True)) as endpoint:
        for own in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"abcd"):
            assert await ask(endpoint, server, b"<" + own + b">") == b"<" + own + b">"


async def test_assigned_ids_with_the_reply_elsewhere() -> None:
    def swap(server: Server, data: bytes, addr: Any) -> None:
        server.send(b"pad" + data[:2], addr)

    async with Server(swap) as server, opened(correlate=TransactionId(0, 2, reply_offset=3, assign=True)) as endpoint:
        assert await ask(endpoint, server, b"ab") == b"padab"


async def test_a_retransmission_carries_the_same_id() -> None:
    async with Server() as server, opened(correlate=ASSIGNED) as endpoint:
        schedule = Retry(attempts=3, initial=0.02, multiplier=1.0, final_wait=5.0)
        task = ask(endpoint, server, b"\0\0q", retry=schedule)
        for _ in range(3):
            data, addr = await server.next()
        assert len(set(server.data)) == 1
        server.send(data, addr)
        assert await task == b"\0\0q"


async def test_with_a_function_as_data_each_attempt_has_an_id_and_all_of_them_live() -> None:
    async with Server() as server, opened(correlate=ASSIGNED) as endpoint:
        schedule = Retry(attempts=3, initial=0.02, multiplier=1.0, final_wait=5.0)
        task = asyncio.ensure_future(
            endpoint.exchange(server.addr, lambda n: b"\0%d try" % n, retry=schedule, timeout=5.0)
        )
        for _ in range(3):
            await server.next()
        assert len({data[:2] for data in server.data}) == 3
        server.send(*server.got[1])
        reply = await task
        assert (reply.data, reply.attempts) == (b"\0" + b"1 try", 3)
        assert reply.rtt is not None, "distinct keys say which attempt was answered"
        assert endpoint.statistics().pending == 0


async def test_distinct_keys_of_the_callers_make_rtt_a_number_again() -> None:
    async with Server() as server, opened(correlate=KEYED) as endpoint:
        schedule = Retry(attempts=2, initial=0.05, multiplier=1.0, final_wait=5.0, jitter=0.0)
        task = asyncio.ensure_future(endpoint.exchange(server.addr, lambda n: b"k%d" % n, retry=schedule, timeout=5.0))
        await server.next()
        await server.next()
        await asyncio.sleep(0.02)
        server.send(*server.got[0])
        reply = await task
        assert reply.rtt is not None
        assert reply.rtt >= 0.06, "counted from the first attempt, which was answered"
        known = endpoint.peer_statistics(server.addr)
        assert known is not None
        assert known.srtt == pytest.approx(reply.rtt)
        # The other attempt's answer is a duplicate.
        server.send(*server.got[1])
        await until(lambda: endpoint.statistics().duplicate == 1)


async def test_one_byte_ids_of_300_requests_at_once_the_257th_waits() -> None:
    async with Server() as server, opened(correlate=TransactionId(0, 1, assign=True)) as endpoint:
        tasks = [ask(endpoint, server, b"\0%d" % i, timeout=20.0) for i in range(300)]
        await until(lambda: len(server.got) == 256)
        await turns(10)
        assert len(server.got) == 256
        assert (endpoint.statistics().pending, endpoint.statistics().waiting) == (256, 44)
        assert {data[0] for data in server.data} == set(range(256))
        server.send(*server.got[17])
        assert await tasks[17] == b"\0" + b"17"
        await until(lambda: len(server.got) == 257)
        assert server.data[256][1:] == b"256"
        assert server.data[256][0] == server.data[17][0]
        server.handler = echo
        for i, (data, addr) in enumerate(list(server.got)):
            if i != 17:
                server.send(data, addr)
        assert await asyncio.gather(*tasks) == [b"\0%d" % i for i in range(300)]


async def test_where_all_ids_are_in_use_another_peer_is_asked_all_the_same() -> None:
    async with (
        Server() as server,
        Server(echo) as other,
        opened(correlate=TransactionId(0, 1, assign=True)) as endpoint,
    ):
        tasks = [ask(endpoint, server, b"\0%d" % i, timeout=20.0) for i in range(260)]
        await until(lambda: len(server.got) == 256)
        assert await ask(endpoint, other, b"\0") == b"\0"
        await cancelled(*tasks)


async def test_a_request_that_never_gets_an_id_times_out_and_says_so() -> None:
    async with Server() as server, opened(correlate=TransactionId(0, 1, assign=True)) as endpoint:
        tasks = [ask(endpoint, server, b"\0", timeout=20.0) for i in range(256)]
        await until(lambda: len(server.got) == 256)
        with pytest.raises(udpguard.ReplyTimeoutError, match="transaction id") as caught:
            await ask(endpoint, server, b"\0", timeout=0.05)
        assert caught.value.attempts == 0
        await cancelled(*tasks)


async def test_ids_that_callers_pick_are_never_assigned() -> None:
    async with Server() as server, opened() as endpoint:
        picks = endpoint.client(correlate=TransactionId(0, 1))
        assigns = endpoint.client(correlate=TransactionId(0, 1, assign=True))
        mine = [ask(picks, server, bytes([i]), timeout=20.0) for i in range(200)]
        await until(lambda: len(server.got) == 200)
        assigned = [ask(assigns, server, b"\0%d" % i, timeout=20.0) for i in range(56)]
        await until(lambda: len(server.got) == 256)
        assert {data[0] for data in server.data[200:]} == set(range(200, 256))
        waits = ask(assigns, server, b"\0last", timeout=20.0)
        await turns(5)
        assert endpoint.statistics().waiting == 1
        server.handler = echo
        for data, addr in list(server.got):
            server.send(data, addr)
        assert await waits == b"\0last"
        await asyncio.gather(*mine, *assigned)


async def test_assigned_ids_are_unpredictable_and_not_lately_used() -> None:
    async with Server(echo) as server, opened(correlate=ASSIGNED) as endpoint:
        for _ in range(300):
            await ask(endpoint, server, b"\0\0")
        ids = [int.from_bytes(data, "big") for data in server.data]
        assert len(set(ids)) == 300, "none of them twice"
        steps = {(b - a) % 65_536 for a, b in itertools.pairwise(ids)}
        assert len(steps) > 250, "no sequence"


# ------------------------------------------------------------------------------------------------ several clients


async def test_several_clients_on_one_endpoint_never_take_each_others_replies() -> None:
    async with Server() as server, opened() as endpoint:
        clients: list[tuple[str, udpguard.Client, int]] = [
            ("short", endpoint.client(correlate=TransactionId(0, 2)), 2),
            ("long", endpoint.client(correlate=TransactionId(2, 4)), 4),
            ("assigned", endpoint.client(correlate=TransactionId(8, 2, assign=True)), 2),
        ]
        tasks = {}
        for i in range(50):
            for name, client, _ in clients:
                # the key fields of the others are filled with bytes that are nobody's key
                head = {
                    "short": i.to_bytes(2, "big") + b"\xf0\xf0\xf0\xf0..\xf1\xf1",
                    "long": b"\xe0\xe0" + i.to_bytes(4, "big") + b"..\xe1\xe1",
                    "assigned": b"\xd0\xd0\xd1\xd1\xd1\xd1..\0\0",
                }[name]
                tasks[name, i] = ask(client, server, head + b"%s %d" % (name.encode(), i), timeout=20.0)
        await until(lambda: len(server.got) == 150)
        answers = list(server.got)
        random.Random(3).shuffle(answers)
        for data, addr in answers:
            server.send(data, addr)
        for (name, i), task in tasks.items():
            assert (await task)[10:] == b"%s %d" % (name.encode(), i)
        assert endpoint.statistics().matched == 150


async def test_a_keyless_client_beside_one_with_a_correlator() -> None:
    async with Server() as server, opened(correlate=KEYED) as endpoint:
        keyless = endpoint.client(correlate=None)
        one = ask(endpoint, server, b"ab")
        two = ask(keyless, server, b"plain")
        await until(lambda: len(server.got) == 2)
        addr = server.got[0][1]
        server.send(b"ab for the keyed one", addr)
        server.send(b"anything for the keyless one", addr)
        assert await one == b"ab for the keyed one"
        assert await two == b"anything for the keyless one"


async def test_equal_correlators_of_two_clients_share_their_keys() -> None:
    async with Server() as server, opened() as endpoint:
        first = ask(endpoint.client(correlate=TransactionId(0, 2)), server, b"ab")
        await server.next()
        with pytest.raises(udpguard.DuplicateTransactionError):
            await ask(endpoint.client(correlate=TransactionId(0, 2)), server, b"ab")
        await cancelled(first)


async def test_assigned_ids_are_unique_across_clients() -> None:
    async with Server() as server, opened() as endpoint:
        clients = [endpoint.client(correlate=TransactionId(0, 1, assign=True)) for _ in range(4)]
        tasks = [ask(clients[i % 4], server, b"\0%d" % i, timeout=20.0) for i in range(256)]
        await until(lambda: len(server.got) == 256)
        assert {data[0] for data in server.data} == set(range(256))
        for data, addr in server.got:
            server.send(data, addr)
        assert await asyncio.gather(*tasks) == [b"\0%d" % i for i in range(256)]


async def test_the_key_is_scoped_to_the_peer() -> None:
    async with Server() as a, Server() as b, opened(correlate=KEYED) as endpoint:
        one, two = ask(endpoint, a, b"ab"), ask(endpoint, b, b"ab")
        _, addr = await a.next()
        await b.next()
        b.send(b"ab from b", addr)
        assert await two == b"ab from b"
        assert not one.done()
        a.send(b"ab from a", addr)
        assert await one == b"ab from a"


# ------------------------------------------------------------------------------------------------ one's own


class Tagged(Correlator):
    """A key between brackets, as text."""

    def request_key(self, data: bytes) -> Hashable | None:
        return self._key(data)

    def reply_key(self, data: bytes) -> Hashable | None:
        return self._key(data)

    def _key(self, data: bytes) -> Hashable | None:
        begin, _, rest = data.partition(b"[")
        tag, bracket, _ = rest.partition(b"]")
        return (tag.decode(), 1) if bracket and not begin.startswith(b"#") else None


async def test_a_correlator_of_ones_own() -> None:
    async with Server() as server, opened(correlate=Tagged()) as endpoint:
        one, two = ask(endpoint, server, b"ask [one]"), ask(endpoint, server, b"ask [two]")
        keyless = ask(endpoint, server, b"ask")
        await until(lambda: len(server.got) == 3)
        addr = server.got[0][1]
        server.send(b"two [two]", addr)
        server.send(b"one [one]", addr)
        server.send(b"none", addr)
        assert await asyncio.gather(one, two, keyless) == [b"one [one]", b"two [two]", b"none"]
        with pytest.raises(udpguard.DuplicateTransactionError) as caught:
            await asyncio.gather(
                ask(endpoint, server, b"[x]", timeout=0.05), ask(endpoint, server, b"[x]", timeout=0.05)
            )
        assert caught.value.transaction == ("x", 1)
        await until(lambda: endpoint.statistics().pending == 0)


async def test_expect_with_a_transaction_of_such_a_correlator() -> None:
    async with Server(echo) as server, opened(correlate=Tagged()) as endpoint:
        expectation = endpoint.expect(server.addr, transaction=("one", 1), timeout=5.0)
        await expectation.send(b"[two]")
        await expectation.send(b"[one]")
        assert (await expectation).data == b"[one]"


async def test_reply_key_that_raises_counts_as_none_and_as_a_hook_error() -> None:
    class Fragile(Tagged):
        def reply_key(self, data: bytes) -> Hashable | None:
            if data == b"bang":
                raise IndexError
            return super().reply_key(data)

    told: list[udpguard.Unexpected] = []
    async with Server() as server, opened(correlate=Fragile(), on_unexpected=told.append) as endpoint:
        task = ask(endpoint, server, b"[k]")
        _, addr = await server.next()
        server.send(b"bang", addr)
        server.send(b"[k]", addr)
        assert await task == b"[k]"
        stats = endpoint.statistics()
        assert (stats.rejected, stats.hook_errors) == (1, 1)
        assert [one.reason for one in told] == [Reason.REJECTED]


async def test_reply_key_that_cannot_be_hashed_counts_as_none() -> None:
    class Unhashable(Tagged):
        def reply_key(self, data: bytes) -> Any:
            return [1] if data == b"bang" else super().reply_key(data)

    async with Server() as server, opened(correlate=Unhashable()) as endpoint:
        task = ask(endpoint, server, b"[k]")
        _, addr = await server.next()
        server.send(b"bang", addr)
        server.send(b"[k]", addr)
        assert await task == b"[k]"
        assert endpoint.statistics().hook_errors == 1


async def test_request_key_that_raises_raises_at_the_caller() -> None:
    class Strict(Tagged):
        def request_key(self, data: bytes) -> Hashable | None:
            if b"[" not in data:
                raise LookupError("no tag")
            return super().request_key(data)

    async with Server(echo) as server, opened(correlate=Strict()) as endpoint:
        with pytest.raises(LookupError, match="no tag"):
            await ask(endpoint, server, b"x")
        assert_idle(endpoint)
        assert server.got == []
        server.handler = None
        with pytest.raises(LookupError, match="no tag"):
            await ask(endpoint, server, lambda n: [b"[k]", b"x"][n], retry=Retry(initial=0.02))
        server.handler = echo
        assert await ask(endpoint, server, b"[k]") == b"[k]"


async def test_request_key_that_cannot_be_hashed_is_a_type_error() -> None:
    class Unhashable(Tagged):
        def request_key(self, data: bytes) -> Any:
            return [data]

    async with Server(echo) as server, opened(correlate=Unhashable()) as endpoint:
        with pytest.raises(TypeError, match="hash"):
            await ask(endpoint, server, b"x")
        assert server.got == []


async def test_a_correlator_that_cannot_be_hashed_is_refused() -> None:
    @dataclasses.dataclass
    class Unhashable(Tagged):
        size: int = 1

    with pytest.raises(TypeError, match="__hash__"):
        udpguard.open_endpoint(correlate=Unhashable())
    with pytest.raises(TypeError, match="__hash__"):
        udpguard.GuardProtocol(correlate=Unhashable())


async def test_different_correlators_of_ones_own_do_not_share_keys() -> None:
    async with Server() as server, opened() as endpoint:
        one, two = endpoint.client(correlate=Tagged()), endpoint.client(correlate=Tagged())
        first = ask(one, server, b"[k] one")
        second = ask(two, server, b"[k] two")
        await until(lambda: len(server.got) == 2)
        addr = server.got[0][1]
        for data in (b"[k] a", b"[k] b"):
            server.send(data, addr)
        assert sorted(await asyncio.gather(first, second)) == [b"[k] a", b"[k] b"]


class Sealed(TransactionId):
    """An id that a checksum at the end covers, in requests and in replies."""

    def stamped(self, data: bytes, key: bytes) -> bytes:
        return seal(super().stamped(data, key)[:-4])

    def restored(self, data: bytes, original: bytes) -> bytes:
        return data


def seal(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "big")


def is_sealed(data: bytes) -> bool:
    return seal(data[:-4]) == data


SEALED = Sealed(0, 2, assign=True)
UNSEALED = b"\0\0what?\0\0\0\0"


async def answer_sealed(server: Server) -> bytes:
    """Answer the next request; returns it."""
    data, addr = await server.next()
    assert is_sealed(data)
    server.send(seal(data[:2] + b"that!"), addr)
    return data


@pytest.mark.parametrize(
    "how",
    [{}, {"retry": Retry(initial=30.0)}, {"accept": lambda reply: is_sealed(reply.data)}, {"reply_from": "host"}],
    ids=["plain", "retry", "accept", "host"],
)
async def test_ids_under_a_checksum(how: dict[str, Any]) -> None:
    """What is sent fits the id that it leaves with, and the reply stays as it came."""
    async with Server() as server, opened(correlate=SEALED) as endpoint:
        task = ask(endpoint, server, UNSEALED, **how)
        data = await answer_sealed(server)
        assert await task == seal(data[:2] + b"that!")


async def test_ids_under_a_checksum_in_a_sweep_and_a_discovery() -> None:
    async with Server() as server, opened(correlate=SEALED) as endpoint:
        async with endpoint.sweep([(server.addr, UNSEALED)] * 3, timeout=5.0) as sweep:
            answered = [await answer_sealed(server) for _ in range(3)]
            outcomes = [outcome async for outcome in sweep]
        replies = {outcome.reply.data for outcome in outcomes if outcome.reply}
        assert replies == {seal(data[:2] + b"that!") for data in answered}
        async with endpoint.discover(server.addr, UNSEALED, limit=1) as found:
            data = await answer_sealed(server)
            assert [reply.data async for reply in found] == [seal(data[:2] + b"that!")]


async def test_an_id_under_a_checksum_is_the_same_in_each_attempt() -> None:
    async with Server() as server, opened(correlate=SEALED) as endpoint:
        task = ask(endpoint, server, UNSEALED, retry=Retry(initial=0.02))
        first, _ = await server.next()
        again = await answer_sealed(server)
        assert first == again
        assert await task == seal(first[:2] + b"that!")


@needs_icmp
@pytest.mark.parametrize("how", [{}, {"accept": lambda reply: True}], ids=["plain", "accept"])
async def test_a_refusal_quotes_the_id_under_its_checksum(how: dict[str, Any]) -> None:
    async with opened(correlate=SEALED) as endpoint:
        with pytest.raises(udpguard.PeerRefusedError):
            await endpoint.request(closed_port(), UNSEALED, timeout=5.0, **how)


class Unstampable(TransactionId):
    def stamped(self, data: bytes, key: bytes) -> bytes:
        raise LookupError("no seal")


@pytest.mark.parametrize(
    "how", [{}, {"retry": Retry()}, {"accept": lambda reply: True}], ids=["plain", "retry", "accept"]
)
async def test_what_stamped_raises_goes_to_the_caller_and_leaves_nothing(how: dict[str, Any]) -> None:
    async with Server() as server, opened(correlate=Unstampable(0, 1, assign=True)) as endpoint:
        for _ in range(257):  # more than there are ids
            with pytest.raises(LookupError, match="no seal"):
                await endpoint.request(server.addr, b"\0what?", timeout=5.0, **how)
            assert_idle(endpoint)
        statistics = endpoint.peer_statistics(server.addr)
        assert statistics is None or statistics.sent == 0


async def test_limits_of_one_client_do_not_hold_up_another() -> None:
    async with Server() as server, opened(limits=Limits(in_flight_per_peer=1)) as endpoint:
        bounded = endpoint.client(correlate=KEYED)
        free = endpoint.client(correlate=TransactionId(2, 2), in_flight_per_peer=None)
        first, second = ask(bounded, server, b"ab.."), ask(bounded, server, b"cd..")
        await server.next()
        other = ask(free, server, b"..ef")
        data, addr = await server.next()
        assert data == b"..ef"
        server.send(b"..ef", addr)
        assert await other == b"..ef"
        server.send(b"ab..", addr)
        await first
        await server.next()
        server.send(b"cd..", addr)
        await second
