"""How gunicorn serves the portal; `flask up` starts it with this file as its configuration."""

import socket
import struct
from typing import Any

from bankportal.config import HOST, load

_config = load()
bind = f"{HOST}:{_config.port}"
wsgi_app = "bankportal.app:create_app()"
workers = 2
threads = _config.threads
worker_class = "gthread"
timeout = 120  # seconds; a worker on a busy machine may take long to start
control_socket_disable = True
SILENCE = 10  # seconds; whoever stops that long in the middle of a request or an answer loses the thread that waits


def when_ready(server: Any) -> None:
    """Wait for clients for a while only: gunicorn's own timeouts are for workers and for idle connections.

    Every connection that comes in has what is set here, from the first byte of its first request on.
    """
    for listener in server.LISTENERS:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", SILENCE, 0))


def post_worker_init(worker: Any) -> None:
    """Load the models a little later."""
    worker.wsgi.extensions["bankportal"].explaining.warm_up_later()
