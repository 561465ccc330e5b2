"""Lets no process of the test suite send a packet anywhere but to the loopback range.

As `sitecustomize` on PYTHONPATH it is loaded by every Python process that the tests start; what it
refuses is also written to a file, so that a refusal which some library swallowed still fails the
suite. pytest-socket guards the test process only, which is why it is not enough here.
"""

import ipaddress
import os
import socket
import sys
from typing import Any

REPORT = "NANOBANANA_GUARD_REPORT"
_NAMES = {"localhost", "localhost.localdomain", "", None}


class OutsideLoopback(OSError):
    """A test tried to leave this machine."""


def allowed(host: Any) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host in _NAMES or str(host).endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def hook(event: str, args: Any) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        family, address = args[0].family, args[1]
        if family not in (socket.AF_INET, socket.AF_INET6) or address is None:
            return
        host = address[0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    # A bind to all addresses looks the name 0.0.0.0 up; it sends nothing.
    if event == "socket.getaddrinfo" and host in ("0.0.0.0", "::"):
        return
    if not allowed(host):
        report = os.environ.get(REPORT)
        if report:
            with open(report, "a") as file:
                file.write(f"{event} {host} by {' '.join(sys.argv)[:200]}\n")
        raise OutsideLoopback(f"{event}: {host} is outside the loopback range")


if REPORT in os.environ:
    sys.addaudithook(hook)
