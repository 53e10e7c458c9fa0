"""How gunicorn serves the portal; `flask up` starts it with this file as its configuration."""

from typing import Any

from bankportal.config import HOST, load

_config = load()
bind = f"{HOST}:{_config.port}"
wsgi_app = "bankportal.app:create_app()"
workers = 2
threads = _config.threads
worker_class = "gthread"
control_socket_disable = True
SILENCE = 10.0  # seconds; whoever stops in the middle of a body that long loses the thread that waits for it


def pre_request(worker: Any, request: Any) -> None:
    """Wait for the rest of a body for a while only: gunicorn's own timeout is for workers, not for clients."""
    request.unreader.sock.settimeout(SILENCE)


def post_worker_init(worker: Any) -> None:
    """Load the models a little later."""
    worker.wsgi.extensions["bankportal"].explaining.warm_up_later()
