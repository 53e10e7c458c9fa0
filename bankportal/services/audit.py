"""The audit: the chain of receipts is verified and exported; every decision and batch is computed again."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bankportal.domain.canonical import sha256
from bankportal.domain.errors import PortalError
from bankportal.domain.receipt import FORMATS, START, Kind, Receipt, Record, content
from bankportal.services.batches.replaying import FilesGone, ReplayDiffers, replay_batch
from bankportal.services.models import Models
from bankportal.services.replaying import replay_decisions
from bankportal.store.chain import UNREADABLE, Chain, Link
from bankportal.store.counts import Group, group_of
from bankportal.store.declarations import DeclarationStore
from bankportal.store.jobs import JobStore, read_job
from bankportal.store.storage import Storage

GROUP_SIZE = 500  # decisions computed again at once
REPORT_EVERY = 100  # receipts
# Called regularly with the last receipt up to which all was right.
Report = Callable[[Receipt], None]


class ChainBroken(PortalError):
    """The chain of receipts is not what was recorded; the message names the first place that differs."""

    code = "chain-broken"


@dataclass(frozen=True)
class Head:
    """A receipt that was the newest one when it was exported; kept elsewhere, it must still be in the chain later."""

    number: int
    digest: str


@dataclass(frozen=True)
class Verified:
    """The result for a correct chain: how many decisions, batches and events were verified, and the newest receipt."""

    decisions: int
    batches: int
    events: int
    head: Receipt | None


@dataclass(frozen=True)
class Replayed:
    """How many decisions and batches were computed again and are equal to what was recorded.

    `skipped` has a sentence for each batch that could not be computed again, since a file of it is gone.
    """

    decisions: int
    batches: int
    skipped: tuple[str, ...]


def _silent(_reported: object) -> None:
    """Report nothing."""


class Audit:
    """Verifies, replays and exports what was recorded."""

    def __init__(self, chain: Chain, models: Models, declarations: DeclarationStore, jobs: JobStore, storage: Storage):
        self.chain = chain
        self.models = models
        self.declarations = declarations
        self.jobs = jobs
        self.storage = storage

    def head(self) -> Receipt | None:
        """Return the chain's newest receipt; `None` where nothing was recorded."""
        return self.chain.head()

    def verify(self, head: Head | None = None, since: Head | None = None, report: Report = _silent) -> Verified:
        """Verify the whole chain in the database; the files of batches are not read.

        With `since`, a head that was verified before, only the entries after it are verified, and those without a
        receipt. Raises `ChainBroken`, which names the first decision, batch or event that was edited, deleted, moved or
        inserted, or the first row of another table that is not what its event says. With a `head` exported earlier, it
        also notices that the end of the chain was cut off.
        """
        counts, groups = Counter[Kind](), Counter[Group]()
        counted, newest = self._counted() if since is None else (None, None)
        begin = last = self._verified_before(since) if since else None
        for kind, record, last in self._verified(begin, report):
            counts[kind] += 1
            if kind is Kind.DECISION and newest and last.number <= newest.number:
                groups[group_of(record)] += 1
            if head and last.number == head.number and last.digest != head.digest:
                raise ChainBroken(f"Receipt {last.number} is not the one of the exported head.")
        end = last.number if last else 0
        if head and end < head.number:
            raise ChainBroken(f"The chain ends at {end}, before the exported head {head.number}.")
        if since is None and groups != counted:
            raise ChainBroken("The counts of decisions are not those of the decisions: they were edited.")
        self._verify_tables()
        return Verified(counts[Kind.DECISION], counts[Kind.BATCH], counts[Kind.EVENT], last)

    def _counted(self) -> tuple[Counter[Group] | None, Receipt | None]:
        """Return the counts of decisions, `None` where they cannot be read, and the newest receipt at that moment."""
        try:
            return self.chain.counted()
        except UNREADABLE:
            return None, None

    def _verify_tables(self) -> None:
        """Raise `ChainBroken` where versions, activations or declarations are not what the events in the chain say."""
        try:
            differences = self.chain.differences()
        except UNREADABLE as error:
            raise ChainBroken("The tables that events prove cannot be read: they were edited.") from error
        if differences:
            raise ChainBroken(differences[0])

    def _verified_before(self, since: Head) -> Receipt:
        """Return the receipt at which an earlier verification ended; `ChainBroken` where it is not in the chain."""
        newest = self.head()
        known = self.chain.receipt(since.number) if newest and since.number <= newest.number else None
        if known is None:
            raise ChainBroken(f"Receipt {since.number}, which was verified before, is not there.")
        if known.digest != since.digest:
            raise ChainBroken(f"Receipt {since.number} is not the one that was verified before.")
        return known

    def replay(
        self, since: Head | None = None, report: Report = _silent, skip: Callable[[str], None] = _silent
    ) -> Replayed:
        """Compute every decision from its stored input, and every batch from its stored file, with its model version.

        With `since`, a head up to which all was replayed before, only what follows it. Raises `ReplayDiffers`, which
        names the first one that is not equal to the last bit. Sentences are not compared: the chain proves them. A
        batch that lacks a file is skipped, and `skip` is called with a sentence about it at once.
        """
        counts = Counter[Kind]()
        skipped: list[str] = []
        begin = self._verified_before(since).number if since else 0
        for kind, links in _runs(self._links(begin, _silent)):
            records = [link.record for link in links if link.record is not None]
            try:
                self._replay(kind, records)
                counts[kind] += len(records)
            except FilesGone as error:
                skipped.append(str(error))
                skip(skipped[-1])
            if links and (last := links[-1].receipt):
                report(last)
        return Replayed(counts[Kind.DECISION], counts[Kind.BATCH], tuple(skipped))

    def _replay(self, kind: Kind, records: Sequence[Record]) -> None:
        if kind is Kind.DECISION:
            replay_decisions(self.models, self.declarations, records)
        for record in records if kind is Kind.BATCH else ():
            self._replay_batch(record)

    def _replay_batch(self, record: Record) -> None:
        try:
            job = read_job(record, self.declarations.product_of(record))
        except UNREADABLE as error:
            raise ReplayDiffers(f"Batch {record['id']} cannot be recomputed: its record is edited.") from error
        replay_batch(self.models, job, self.storage, self.jobs.score_spans(job))

    def export(self) -> Iterator[tuple[Kind, str]]:
        """Yield the chain: the kind of each entry, and its line of JSON.

        A line has `content`, the receipt's canonical text, and `digest`, the SHA-256 of that text. Protected values are
        in it as a digest only. Raises `ChainBroken` as `verify` does.
        """
        for kind, record, own in self._verified(None, _silent):
            text = content(kind, record, own.number, own.previous, own.format)
            yield kind, json.dumps({"digest": own.digest, "content": text}, ensure_ascii=False)

    def _verified(self, last: Receipt | None, report: Report) -> Iterator[tuple[Kind, Record, Receipt]]:
        """Yield the entries after a receipt as far as they are correct; then raise `ChainBroken`."""
        for link in self._links(last.number if last else 0, report):
            record, last = verified_link(link, last)
            yield link.kind, record, last

    def _links(self, place: int, report: Report) -> Iterator[Link]:
        """Yield the chain after a receipt's number; raise `ChainBroken` where an edit has made an entry unreadable."""
        links = self.chain.links(place)
        while True:
            try:
                link = next(links, None)
            except UNREADABLE as error:
                raise ChainBroken(f"What follows receipt {place} cannot be read: it was edited.") from error
            if link is None:
                return
            yield link
            if link.receipt:
                place = link.receipt.number
                if place % REPORT_EVERY == 0:
                    report(link.receipt)


def _runs(links: Iterator[Link]) -> Iterator[tuple[Kind, list[Link]]]:
    """Yield what has a record in groups: consecutive decisions together, each batch alone; events are left out.

    Where an entry cannot be read, the entries before it are yielded before the error is raised.
    """
    run: list[Link] = []
    try:
        for link in links:
            if link.record is None or link.kind is Kind.EVENT:
                continue
            if link.kind is Kind.BATCH or len(run) == GROUP_SIZE:
                yield Kind.DECISION, run
                run = []
            if link.kind is Kind.BATCH:
                yield link.kind, [link]
            else:
                run.append(link)
    except ChainBroken:
        yield Kind.DECISION, run
        raise
    yield Kind.DECISION, run


def verified_link(link: Link, last: Receipt | None) -> tuple[Record, Receipt]:
    """Return the link's record and receipt.

    Raises `ChainBroken` unless the receipt follows the last one and is the record's own.
    """
    expected = last.number + 1 if last else 1
    if link.receipt is None:
        raise ChainBroken(f"{_name(link)} has no receipt: it was inserted.")
    if link.receipt.number != expected:
        raise ChainBroken(f"Receipt {expected} is missing: the next one there is {link.receipt.number}.")
    if link.record is None:
        raise ChainBroken(f"What receipt {expected} is of is not there: it was deleted.")
    if link.receipt.previous != (last.digest if last else START):
        raise ChainBroken(f"Receipt {expected} does not follow the one before it.")
    if link.receipt.format not in FORMATS:
        raise ChainBroken(
            f"Receipt {expected} has format {link.receipt.format}, which this release does not know: "
            "it was written by a newer release."
        )
    if not _is_recorded(link.kind, link.record, link.receipt):
        raise ChainBroken(f"{_name(link)} (receipt {expected}) is not what was recorded.")
    return link.record, link.receipt


def _is_recorded(kind: Kind, record: Record, own: Receipt) -> bool:
    try:
        return sha256(content(kind, record, own.number, own.previous, own.format)) == own.digest
    except UNREADABLE:  # values that could never have been recorded
        return False


def _name(link: Link) -> str:
    """Name an entry as messages do: by its id, an event by what was done to what."""
    if link.record is None:
        return f"{link.kind.value.capitalize()} ?"
    if link.kind is Kind.EVENT:
        return f"Event {link.record['kind']} of {link.record['subject']}"
    return f"{link.kind.value.capitalize()} {link.record['id']}"
