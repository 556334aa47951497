"""Mistakes that a type checker must flag: under mypy's strict mode an ignore that hides nothing is an error itself."""

from __future__ import annotations

import udpguard


async def mistakes(client: udpguard.Client, endpoint: udpguard.Endpoint) -> None:
    await client.request("192.0.2.1:7", b"")  # type: ignore[arg-type]
    await client.request(("192.0.2.1", "7"), b"")  # type: ignore[arg-type]
    await client.request(("192.0.2.1", 7), "hello")  # type: ignore[arg-type]
    await client.request(("192.0.2.1", 7), b"", timeout="2")  # type: ignore[arg-type]
    await client.request(("192.0.2.1", 7), b"", retry=3)  # type: ignore[arg-type]
    await client.request(("192.0.2.1", 7), b"", reply_from=None)  # type: ignore[arg-type]
    await client.request(("192.0.2.1", 7), b"", accept=lambda reply: None)  # type: ignore[arg-type,return-value]
    await client.request(("192.0.2.1", 7), b"", 2.0)  # type: ignore[call-arg]
    client.expect(("192.0.2.1", 7), retry=None)  # type: ignore[call-arg]
    endpoint.client(correlate=lambda data: data)  # type: ignore[arg-type]
    udpguard.TransactionId(0, 2, 24)  # type: ignore[call-arg]
    udpguard.Correlator()  # type: ignore[abstract]
    udpguard.Retry().attempts = 3  # type: ignore[misc]


async def forgotten_words(endpoint: udpguard.Endpoint) -> None:
    await udpguard.open_endpoint().request(("192.0.2.1", 7), b"")  # type: ignore[attr-defined]
    with udpguard.open_endpoint():  # type: ignore[attr-defined]
        pass
    with endpoint:  # type: ignore[attr-defined]
        pass
    for _ in endpoint.sweep([]):  # type: ignore[attr-defined]
        pass
    await endpoint.sweep([])  # type: ignore[misc]
