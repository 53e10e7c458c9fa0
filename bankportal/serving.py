"""How gunicorn serves the portal; `flask up` starts it with this file as its configuration."""

import threading
from typing import Any

from bankportal.config import HOST, load
from bankportal.domain.errors import NoActiveModel
from bankportal.domain.products import PRODUCTS
from bankportal.ml.recourse import kernels

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
    threading.Thread(target=warm_up, args=(services,), daemon=True).start()


def warm_up(services: Any) -> None:
    """Load every product's model with its compiled kernels."""
    kernels()
    for product in PRODUCTS.values():
        try:
            services.models.serving(product).warm_up()
        except NoActiveModel:
            continue
