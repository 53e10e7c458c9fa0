"""Scoring a file on a Dask cluster: `chunks.score_block` on other machines, the parts in the file's order.

What a machine needs travels with the work: it must have this package and reach the input's location, and needs no
instance folder.
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
from bankportal.domain.errors import PortalError
from bankportal.domain.factors import Phrase
from bankportal.domain.policy import POLICIES
from bankportal.domain.products import PRODUCTS
from bankportal.domain.reasons import Catalogue
from bankportal.registry.registry import FILES, MANIFEST, LoadedModel, Registry, digest
from bankportal.services.batches.chunks import Part, Work, score_block
from bankportal.version import __version__

LOCAL = "local"
WAIT = 30  # seconds: for a scheduler to answer, and for its first worker
IN_FLIGHT = 3  # chunks under way for each thread of the cluster: none of them idle, few results held


class ClusterFailed(PortalError):
    """A cluster cannot be reached, or gave up on a chunk."""

    code = "cluster-failed"


@dataclass(frozen=True, eq=False)
class SerializedWork:
    """A `Work` that can travel: the model version as the bytes of its files, everything else as plain values."""

    portal: str
    product: str
    version: str
    manifest_digest: str
    files: dict[str, bytes]
    phrases: dict[str, Phrase]
    rules: dict[str, str]
    policy: str | None
    layout: Layout
    mapping: dict[str, str]

    @classmethod
    def of(cls, work: Work, models: Path) -> "SerializedWork":
        """Pack a work up; `models` is the folder of the model versions."""
        folder = models / work.product.key / work.model.version
        return cls(
            portal=__version__,
            product=work.product.key,
            version=work.model.version,
            manifest_digest=work.model.manifest_digest,
            files={name: (folder / name).read_bytes() for name in (MANIFEST, *FILES)},
            phrases=dict(work.catalogue.phrases),
            rules=dict(work.catalogue.rules),
            policy=work.policy.version if work.policy else None,
            layout=work.layout,
            mapping=dict(work.mapping),
        )

    @property
    def key(self) -> str:
        """What tells parcels apart; the manifest's digest stands for the files it names."""
        return digest(repr((self.manifest_digest, self.phrases, self.rules, self.layout, self.mapping)).encode())

    def unpack(self) -> Work:
        """Return the work; `VersionRefused` where a file is not what its manifest says."""
        if self.portal != __version__:
            raise ClusterFailed(f"The cluster's workers have bankportal {__version__}, this is {self.portal}.")
        return Work(
            product=PRODUCTS[self.product],
            layout=self.layout,
            mapping=self.mapping,
            model=self._model(),
            catalogue=Catalogue(self.phrases, self.rules),
            policy=POLICIES[self.policy] if self.policy else None,
        )

    def _model(self) -> LoadedModel:
        with TemporaryDirectory() as folder:
            home = Path(folder) / self.product / self.version
            home.mkdir(parents=True)
            for name, content in self.files.items():
                (home / name).write_bytes(content)
            return Registry(Path(folder)).model(PRODUCTS[self.product], self.version, self.manifest_digest)


_unpacked: dict[str, Work] = {}
_unpacking = Lock()


def score_span(parcel: SerializedWork, source: AnyInput, span: Span) -> Part:
    """Score one span of a file, anywhere: its lines, without the records of results."""
    with _unpacking:
        if parcel.key not in _unpacked:
            _unpacked.clear()  # one at a time: a worker's memory is no registry
            _unpacked[parcel.key] = parcel.unpack()
        work = _unpacked[parcel.key]
    part = score_block(work, source.block(span))
    return replace(part, results=part.results[:0])


def parts(scheduler: str, work: Work, models: Path, found: Input) -> Generator[tuple[int, Part]]:
    """Yield a file's parts in order, scored on a cluster: at an address, or `LOCAL`, one on this machine.

    With each comes how much of the input is done. A worker that dies has its chunks done by another. `ClusterFailed`
    where the cluster gives up or has no worker left, and whatever `PortalError` a chunk raises.
    """
    with _client(scheduler) as client:
        # A task rather than scattered data: it is done again where all workers that held it are gone.
        parcel = client.submit(_itself, SerializedWork.of(work, models), pure=False)
        most = IN_FLIGHT * sum(client.nthreads().values())
        under_way: deque[tuple[int, AnyInput, Span, Any]] = deque()
        for done, source, span in found.spans():
            future = client.submit(score_span, parcel, source, span, pure=False)
            under_way.append((done, source, span, future))
            if len(under_way) >= most:
                yield _arrived(client, *under_way.popleft())
        while under_way:
            yield _arrived(client, *under_way.popleft())


def _itself(parcel: SerializedWork) -> SerializedWork:
    return parcel


def _arrived(client: Any, done: int, source: AnyInput, span: Span, future: Any) -> tuple[int, Part]:
    try:
        return done, _result(client, future)
    except PortalError:
        raise
    except Exception as error:  # whatever was raised on another machine, or of the cluster itself
        file, why = file_name(source.location), " ".join(f"{type(error).__name__}: {error}".split())
        raise ClusterFailed(
            f"The rows of {file} from line {span.line:,} on could not be scored on the cluster: {why}"
        ) from error


def _result(client: Any, future: Any) -> Part:
    """Wait for a chunk as long as there is somebody to work on it."""
    alone = False
    while True:
        try:
            return future.result(timeout=WAIT)  # type: ignore[no-any-return]
        except TimeoutError:
            if future.done():  # its own
                raise
            workers = client.nthreads()
            if alone and not workers:
                raise ClusterFailed("The cluster has lost all its workers.") from None
            alone = not workers


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    """Connect to a cluster that has a worker, or start one; both are left at the end."""
    try:
        import dask
        import distributed
    except ImportError:
        raise ClusterFailed(f"A cluster needs Dask: {EXTRA}") from None
    if scheduler != LOCAL:
        with ThreadPoolExecutor(1) as pool:  # this thread may have a loop of its own: a notebook's has
            pool.submit(lambda: asyncio.run(_greet(scheduler))).result()
    # The parcel is large on purpose, and travels once.
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
    """Raise `ClusterFailed` where no scheduler answers; a client that never got an answer waits long for its end."""
    from distributed import Security, rpc

    try:
        options = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
        async with (
            asyncio.timeout(WAIT),
            rpc(scheduler, timeout=WAIT, connection_args=options) as remote,  # type: ignore[no-untyped-call]
        ):
            await remote.identity()
    except Exception as error:  # by the address: one that is none, nobody there, somebody else there
        why = str(error) or f"nobody answered within {WAIT} s"
        raise ClusterFailed(f"No Dask scheduler answers at {scheduler}: {why}") from None


@contextmanager
def _cluster(scheduler: str) -> Iterator[Any]:
    if scheduler != LOCAL:
        yield scheduler
        return
    from distributed import LocalCluster

    from bankportal.model.compiling import processors  # brings Numba, which no other command needs to start

    made = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=processors(),
        threads_per_worker=1,
        host=HOST,
        dashboard_address=f"{HOST}:0",
        silence_logs=logging.CRITICAL,  # a worker that misses its scheduler at the very end
    )
    with made as cluster:
        yield cluster
