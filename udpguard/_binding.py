"""What the operating system's refusal to open a socket, or to bind one, means."""

from __future__ import annotations

import errno

from udpguard.core.address import Wire, is_unscoped_link_local, peer_of

_NOT_THE_SERVER = "local_addr is the endpoint's own address; the server's goes to request()"


def binding_error(error: OSError, wire: Wire, if_misplaced: str = _NOT_THE_SERVER) -> OSError:
    """The refusal to bind to a local address, as another of the same kind that says what to do.

    Args:
        error: The refusal.
        wire: The address.
        if_misplaced: What to do where it is an address for another place.
    """
    peer = peer_of(wire)
    if error.errno == errno.EADDRINUSE:
        advice = f"another socket has it (ss -ulpn shows whose), and port 0 is any free one; {if_misplaced}"
    elif error.errno == errno.EADDRNOTAVAIL:
        advice = f"it is none of this machine's addresses; {if_misplaced}"
    elif error.errno in (errno.EACCES, errno.EPERM):
        advice = "the lowest ports, mostly those below 1024, need privileges; a client needs no certain port"
    elif is_unscoped_link_local(wire):
        advice = f"a link-local address needs its link, as in {peer.host}%eth0"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        return error
    else:
        advice = "is it an address of this machine?"
    return OSError(error.errno, f"could not bind to {peer}: {error.strerror}: {advice}")


def opening_error(error: OSError) -> OSError:
    """Why no endpoint could be opened, as another error of the same kind, if there is more to say."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return error
    return OSError(
        error.errno,
        f"{error.strerror}: one endpoint asks any number of servers; is one opened for each request, or never closed? "
        f"(ulimit -n shows the limit)",
    )
