"""The socket that a server listens on: bound here, or handed over by whoever holds it open while servers come and go.

Bound before anything is built: a port that is taken is known at once, and nobody is let in before there are answers.
"""

import errno
import logging
import socket
from contextlib import ExitStack

from app.settings import Settings
from keys.errors import ConfigurationError

log = logging.getLogger("sdb")


def listening(settings: Settings) -> socket.socket:
    """The socket of `SDB_FD`, or one of the address `SDB_HOST`, `SDB_PORT`.

    Raises:
        ConfigurationError: the descriptor is none, or the address cannot be had.
    """
    return _bound(settings) if settings.fd is None else _handed_over(settings.fd)


def _bound(settings: Settings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as unless_bound:
            bound = unless_bound.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            unless_bound.pop_all()
    except OSError as error:
        remedy = "; SDB_PORT names another port" if error.errno == errno.EADDRINUSE else ""
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}{remedy}") from None
    except UnicodeError:
        raise ConfigurationError(f"cannot listen on {host}:{port}: no host can be called so") from None
    bound.set_inheritable(True)
    log.info("http://%s:%s is this server's", settings.url_host, bound.getsockname()[1])
    return bound


def _handed_over(descriptor: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=descriptor)
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(0, "it does not listen")
    except OSError as error:
        raise ConfigurationError(f"SDB_FD: descriptor {descriptor} is no listening socket: {error.strerror}") from None
    return listener
