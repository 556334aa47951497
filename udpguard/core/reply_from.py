"""How callers say where a reply may come from. `ipaddress` is slow to load: only who names these has it loaded."""

import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

from udpguard.core.address import Address

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
ReplyFrom: TypeAlias = str | Address | Network | Sequence[str | Address | Network]
"""Where a reply may come from: "peer", "host", "anywhere", an address, a network, or several of these."""
