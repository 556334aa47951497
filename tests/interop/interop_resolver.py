"""unbound as dnspython's tests need it: by UDP and TCP, with an answer that fits into no plain UDP datagram."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import interop_servers
from interop_servers import BULK, ZONE, Server

LONG: Final = f"long.{ZONE}"
STRINGS: Final = tuple(f"{n:02}-" + "x" * 60 for n in range(20))
"""The TXT records of `LONG`: more than the 512 bytes of an answer without EDNS (RFC 1035 section 4.2.1)."""


def unbound(directory: Path, host: str = "127.0.0.1", network: int = 7) -> AbstractContextManager[Server]:
    """unbound, the authority for `ZONE`."""
    data = [f"{name} 300 IN A {address}" for name, address in interop_servers._bulk(network)]
    data += [f'{LONG} 300 IN TXT "{text}"' for text in STRINGS]
    assert len(data) == BULK + len(STRINGS)

    def command(port: int, token: str) -> list[str]:
        own = "\n".join(f"    local-data: '{line}'" for line in (*data, f'whoami.{ZONE} 300 IN TXT "{token}"'))
        text = f"""
server:
    interface: {host}
    port: {port}
    do-daemonize: no
    do-tcp: yes
    do-ip6: {"yes" if ":" in host else "no"}
    do-ip4: {"no" if ":" in host else "yes"}
    outgoing-interface: {host}
    num-threads: 1
    so-reuseport: no
    chroot: ""
    username: ""
    directory: "{directory}"
    pidfile: ""
    use-syslog: no
    logfile: ""
    verbosity: 0
    access-control: 127.0.0.0/8 allow
    access-control: ::1 allow
    module-config: "iterator"
    local-zone: "." static
    local-zone: "{ZONE}" static
{own}
remote-control:
    control-enable: no
"""
        path = interop_servers._write(directory / "unbound.conf", text)
        return [interop_servers.program("unbound"), "-d", "-c", str(path)]

    kind = interop_servers._Kind(command, interop_servers._dns_question, interop_servers._is_dns_answer)
    return interop_servers._run("unbound", directory, host, network, kind)
