"""The address at which the processes of a run meet, and why it cannot be reached, as far as this host can find out."""

import errno
import os
import socket
from collections.abc import Mapping

SECONDS = 5.0
"""For which an address is tried."""


def meeting_place(environment: Mapping[str, str] | None = None) -> str:
    """Return address and port of rank 0 as the launcher gave them."""
    given = os.environ if environment is None else environment
    return f"{given.get('MASTER_ADDR', '?')}:{given.get('MASTER_PORT', '?')}"


def meeting_problem(environment: Mapping[str, str] | None = None) -> str:
    """Return what keeps this host from the meeting place; empty if something answers there.

    torch says of all of these that a time-out passed.
    """
    given = os.environ if environment is None else environment
    address, port = given.get("MASTER_ADDR", ""), given.get("MASTER_PORT", "")
    if not address or not port.isdecimal():
        return "MASTER_ADDR and MASTER_PORT are not set: start with a launcher"
    here = socket.gethostname()
    try:
        socket.getaddrinfo(address, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return f"{here} does not know the name {address}: put it into DNS or /etc/hosts, or give an address"
    try:
        socket.create_connection((address, int(port)), SECONDS).close()
    except ConnectionRefusedError:
        return f"nothing listens at {address}:{port}: rank 0 has not started, or has ended, and its own output says why"
    except OSError as fault:
        unreachable = fault.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
        why = (fault.strerror or "").lower() if unreachable else f"no answer within {SECONDS:.0f} s"
        return f"{address}:{port} cannot be reached from {here} ({why}): its host or the link is down, or a firewall"
    return ""
