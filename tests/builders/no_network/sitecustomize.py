"""Python imports this at its start if its folder is on PYTHONPATH: it refuses connections that leave this machine, in the
process and in those that it starts, and notes each in the file that REFUSED_CONNECTIONS names."""

import ipaddress
import os
import sys

LOCAL = ("localhost", "", None)


def is_local(host: object) -> bool:
    """Whether an address or name means this machine."""
    if host in LOCAL:
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: the kinds of calls by which Python's sockets leave the machine, name look-ups included."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        # Unix sockets have paths, netlink and others numbers; those of the internet a host and a port.
        host = address[0] if isinstance(address, tuple) and isinstance(address[0], str) else "localhost"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]  # type: ignore[assignment]
    else:
        return
    if not is_local(host):
        with open(os.environ["REFUSED_CONNECTIONS"], "a") as file:  # noqa: PTH123  # pathlib is not imported this early
            file.write(f"{event} {host} by {' '.join(sys.argv)}\n")
        raise ConnectionRefusedError(f"a test refuses connections: {event} {host}")


if "REFUSED_CONNECTIONS" in os.environ:
    sys.addaudithook(refuse_network)
