"""Scoring a file on a Dask cluster: `chunks.score_block` runs on other machines; the parts come in the file's order.

The work is sent with all that it needs. A machine must have this package installed and be able to read the input's
location; it needs no instance folder.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from bankportal.config import HOST
from bankportal.data.blocks import Layout
from bankportal.data.locations import EXTRA, AnyInput, Input, file_name
from bankportal.domain.batch import Span
from bankportal.domain.declaration import product_of
from bankportal.domain.errors import PortalError
from bankportal.domain.products import Product
from bankportal.registry.registry import FILES, MANIFEST, LoadedModel, Registry, digest
from bankportal.services.batches.chunks import Part, Work, score_block
from bankportal.version import __version__

LOCAL = "local"
WAIT = 30  # seconds, for a scheduler to answer and for its first worker
IN_FLIGHT = 3  # chunks submitted for each thread of the cluster: no thread is idle, and few results wait in memory


class ClusterFailed(PortalError):
    """A cluster cannot be reached, or has failed to score a chunk."""

    code = "cluster-failed"


@dataclass(frozen=True, eq=False)
class SerializedWork:
    """A `Work` that can be sent to a machine that knows nothing of the product.

    `declaration` and `policy` are the canonical texts of the product and its policy, `files` the bytes of the model
    version's files by name.
    """

    portal: str
    declaration: str
    policy: str | None
    version: str
    manifest_digest: str
    files: dict[str, bytes]
    layout: Layout
    mapping: dict[str, str]

    @classmethod
    def of(cls, work: Work, models: Path) -> "SerializedWork":
        """Serialize a work; `models` is the folder of the model versions."""
        folder = models / work.product.key / work.model.version
        return cls(
            portal=__version__,
            declaration=work.product.text,
            policy=work.product.policy.text if work.product.policy else None,
            version=work.model.version,
            manifest_digest=work.model.manifest_digest,
            files={name: (folder / name).read_bytes() for name in (MANIFEST, *FILES)},
            layout=work.layout,
            mapping=dict(work.mapping),
        )

    @property
    def key(self) -> str:
        """A digest that differs between works; the manifest's digest covers the files."""
        return digest(repr((self.manifest_digest, self.declaration, self.policy, self.layout, self.mapping)).encode())

    def deserialize(self) -> Work:
        """Return the work.

        Raises `VersionRefused` where a file is not the one its manifest names, `ClusterFailed` where the sender has
        another version of this package.
        """
        if self.portal != __version__:
            raise ClusterFailed(f"The cluster's workers have bankportal {__version__}, this is {self.portal}.")
        product = product_of(self.declaration, self.policy)
        return Work(product=product, layout=self.layout, mapping=self.mapping, model=self._model(product))

    def _model(self, product: Product) -> LoadedModel:
        with TemporaryDirectory() as folder:
            home = Path(folder) / product.key / self.version
            home.mkdir(parents=True)
            for name, content in self.files.items():
                (home / name).write_bytes(content)
            return Registry(Path(folder)).model(product, self.version, self.manifest_digest)


_deserialized: dict[str, Work] = {}
_deserializing = Lock()


def score_span(serialized: SerializedWork, source: AnyInput, span: Span) -> Part:
    """Score one span of a file on any machine; the part has its lines, but no `RESULT` records."""
    with _deserializing:
        if serialized.key not in _deserialized:
            _deserialized.clear()  # a worker keeps one work in memory
            _deserialized[serialized.key] = serialized.deserialize()
        work = _deserialized[serialized.key]
    part = score_block(work, source.block(span))
    return replace(part, results=part.results[:0])


def parts(scheduler: str, work: Work, models: Path, input_file: Input) -> Generator[tuple[int, Part]]:
    """Yield a file's parts in order, scored on a cluster, each with how much of the input is done.

    `scheduler` is the cluster's address, or `LOCAL` for a cluster on this machine. When a worker dies, another takes
    over its chunks. Raises `ClusterFailed` where the cluster fails or has no worker left, and any `PortalError` of a
    chunk.
    """
    with _client(scheduler) as client:
        # A task rather than scattered data: a task runs again when all workers that had its result are gone.
        serialized = client.submit(_itself, SerializedWork.of(work, models), pure=False)
        max_in_flight = IN_FLIGHT * sum(client.nthreads().values())
        in_flight: deque[tuple[int, AnyInput, Span, Any]] = deque()
        for done, source, span in input_file.spans():
            future = client.submit(score_span, serialized, source, span, pure=False)
            in_flight.append((done, source, span, future))
            if len(in_flight) >= max_in_flight:
                yield _part_of(client, *in_flight.popleft())
        while in_flight:
            yield _part_of(client, *in_flight.popleft())


def _itself(serialized: SerializedWork) -> SerializedWork:
    return serialized


def _part_of(client: Any, done: int, source: AnyInput, span: Span, future: Any) -> tuple[int, Part]:
    try:
        return done, _result(client, future)
    except PortalError:
        raise
    except Exception as error:  # of any kind, raised on another machine or by the cluster itself
        file, reason = file_name(source.location), " ".join(f"{type(error).__name__}: {error}".split())
        raise ClusterFailed(
            f"The rows of {file} from line {span.line:,} on could not be scored on the cluster: {reason}"
        ) from error


def _result(client: Any, future: Any) -> Part:
    """Wait for a chunk as long as the cluster has a worker."""
    without_workers = False
    while True:
        try:
            return future.result(timeout=WAIT)  # type: ignore[no-any-return]
        except TimeoutError:
            if future.done():  # raised by the chunk itself
                raise
            workers = client.nthreads()
            if without_workers and not workers:
                raise ClusterFailed("The cluster has lost all its workers.") from None
            without_workers = not workers


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    """Connect to a cluster that has a worker, or start one; disconnect, or stop it, at the end."""
    try:
        import dask
        import distributed
    except ImportError:
        raise ClusterFailed(f"A cluster needs Dask: {EXTRA}") from None
    if scheduler != LOCAL:
        with ThreadPoolExecutor(1) as pool:  # this thread may have an event loop already, as in a notebook
            pool.submit(lambda: asyncio.run(_greet(scheduler))).result()
    # The serialized work is large on purpose, and sent only once.
    with (
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}),
        _cluster(scheduler) as cluster,
        distributed.Client(cluster, timeout=WAIT, set_as_default=False) as client,  # type: ignore[no-untyped-call]
    ):
        try:
            client.wait_for_workers(1, timeout=WAIT)
        except TimeoutError:
            raise ClusterFailed(f"The Dask scheduler at {scheduler} has no workers.") from None
        yield client


async def _greet(scheduler: str) -> None:
    """Raise `ClusterFailed` where no scheduler answers; a client that gets no answer takes long to end."""
    from distributed import Security, rpc

    try:
        options = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
        async with (
            asyncio.timeout(WAIT),
            rpc(scheduler, timeout=WAIT, connection_args=options) as remote,  # type: ignore[no-untyped-call]
        ):
            await remote.identity()
    except Exception as error:  # of many kinds: a bad address, nobody there, another service there
        reason = str(error) or f"nobody answered within {WAIT} s"
        raise ClusterFailed(f"No Dask scheduler answers at {scheduler}: {reason}") from None


@contextmanager
def _cluster(scheduler: str) -> Iterator[Any]:
    if scheduler != LOCAL:
        yield scheduler
        return
    from distributed import LocalCluster

    from bankportal.model.compiling import processors  # imports Numba, which other commands do not need to start

    local_cluster = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=processors(),
        threads_per_worker=1,
        host=HOST,
        dashboard_address=f"{HOST}:0",
        silence_logs=logging.CRITICAL,  # a worker that misses its scheduler at the very end
    )
    with local_cluster as cluster:
        yield cluster
