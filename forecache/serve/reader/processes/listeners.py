"""The listening sockets of a reader, one for each worker."""

import errno
import ipaddress
import socket

from forecache.base.errors import ConflictError, SettingsError

BACKLOG = 4096
"""Most connections that wait in the kernel until a worker accepts them."""


def listen(host: str, port: int, *, anonymous: bool, count: int = 1) -> list[socket.socket]:
    """Open sockets that listen on a port, so that no other process can.

    Args:
        anonymous: Whether other machines may reach the address.
        count: Number of sockets; the kernel spreads connections over them.

    Raises:
        ConflictError: Another process listens on the port.
        SettingsError: The address is not this machine's, the port is reserved, or other machines could reach it.
    """
    listeners: list[socket.socket] = []
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not anonymous and not ipaddress.ip_address(address[0]).is_loopback:
            raise SettingsError(
                f"The reader has no tokens, and other machines would reach it on {host}.",
                remedy="Set FORECACHE_READER_TOKENS (`forecache tokens create` makes the file), or "
                "FORECACHE_READER_ANONYMOUS=true if the network is trusted.",
            )
        for number in range(count):
            listener = socket.socket(family, kind)
            listeners.append(listener)
            # A restart must not wait for connections of the previous reader; two listeners are refused all the same.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if number:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(listeners[0].getsockname() if number else address)
            listener.listen(BACKLOG)
            # The first socket took the port exclusively; from here on this process's other sockets may share it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.set_inheritable(True)
            listener.setblocking(False)
    except OSError as error:
        for listener in listeners:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConflictError(
                f"Port {port} on {host} is in use.",
                remedy="Stop the process that listens there, or choose another with --port or FORECACHE_READER_PORT.",
            ) from None
        raise SettingsError(
            f"The reader cannot listen on {host} port {port}: {error.strerror}.",
            remedy="Set FORECACHE_READER_HOST to an address of this machine and the port to one above 1023.",
        ) from None
    return listeners
