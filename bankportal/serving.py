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
WARM_UP_AFTER = 2.0  # seconds


def post_worker_init(worker: Any) -> None:
    """Load the models a little later, so that the first page is there at once and the first score is fast."""
    services = worker.wsgi.extensions["bankportal"]
    warm_up = threading.Timer(WARM_UP_AFTER, services.explaining.warm_up)
    warm_up.daemon = True
    warm_up.start()
