"""How gunicorn serves the portal; `flask up` starts it with this file as its configuration."""

import threading
from typing import Any

from bankportal.config import HOST, load

_config = load()
bind = f"{HOST}:{_config.port}"
wsgi_app = "bankportal.app:create_app()"
workers = 2
threads = _config.threads
worker_class = "gthread"
control_socket_disable = True


def post_worker_init(worker: Any) -> None:
    """Load the models beside the first requests, so that pages are there at once and the first score is fast."""
    services = worker.wsgi.extensions["bankportal"]
    threading.Thread(target=services.explaining.warm_up, daemon=True).start()
