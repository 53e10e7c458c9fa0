"""Proving past answers: the chain of receipts checked and exported, every decision and batch recomputed."""

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
from bankportal.store.jobs import JobStore, read_job
from bankportal.store.storage import Storage

TOGETHER = 500  # decisions recomputed at once
REPORTED = 100  # receipts from one report of progress to the next
# Called now and then with the number of the receipt that was reached.
Report = Callable[[int], None]


class ChainBroken(PortalError):
    """The chain of receipts is not what was written; the message names the first place that differs."""

    code = "chain-broken"


@dataclass(frozen=True)
class Head:
    """A receipt that was the newest one once, kept outside the portal: it must still be there later."""

    number: int
    digest: str


@dataclass(frozen=True)
class Verified:
    """A chain that is right: how many decisions and batches were checked, and its newest receipt."""

    decisions: int
    batches: int
    head: Receipt | None


@dataclass(frozen=True)
class Replayed:
    """What was recomputed and found equal; `gone` says of each batch whose files are gone that it was not."""

    decisions: int
    batches: int
    gone: tuple[str, ...]


def _silent(_number: int) -> None:
    """Report nothing."""


class Audit:
    """What an auditor asks of the recorded decisions and batches."""

    def __init__(self, chain: Chain, models: Models, jobs: JobStore, storage: Storage):
        self.chain = chain
        self.models = models
        self.jobs = jobs
        self.storage = storage

    def head(self) -> Receipt | None:
        """Return the chain's newest receipt; `None` where nothing was recorded."""
        return self.chain.head()

    def verify(self, head: Head | None = None, since: Head | None = None, report: Report = _silent) -> Verified:
        """Check the whole chain: the database alone, not the files of batches.

        With `since`, a head that was verified before, only what follows it is checked, and what stands outside the
        chain. Raises `ChainBroken` naming the first decision or batch that was edited, deleted, moved, inserted or,
        against a `head` exported earlier, cut off.
        """
        counts = Counter[Kind]()
        begin = last = self._verified_before(since) if since else None
        for kind, _, last in self._checked(begin, report):
            counts[kind] += 1
            if head and last.number == head.number and last.digest != head.digest:
                raise ChainBroken(f"Receipt {last.number} is not the one of the exported head.")
        end = last.number if last else 0
        if head and end < head.number:
            raise ChainBroken(f"The chain ends at {end}, before the exported head {head.number}.")
        return Verified(counts[Kind.DECISION], counts[Kind.BATCH], last)

    def _verified_before(self, since: Head) -> Receipt:
        """Return the receipt that an earlier check ended with; `ChainBroken` where the chain does not hold it."""
        known = self.chain.receipt(since.number)
        if known is None:
            raise ChainBroken(f"Receipt {since.number}, which was verified before, is not there.")
        if known.digest != since.digest:
            raise ChainBroken(f"Receipt {since.number} is not the one that was verified before.")
        return known

    def replay(self, report: Report = _silent) -> Replayed:
        """Recompute every decision from its stored input, every batch from its stored file, by their model versions.

        Raises `ReplayDiffers` naming the first that is not equal bit for bit. Sentences are not compared: the bank may
        have edited its words since; the chain proves those. A batch of which a file is gone is named and passed over.
        """
        counts = Counter[Kind]()
        gone: list[str] = []
        for kind, records in _runs(self._links(0, report)):
            try:
                self._replay(kind, records)
                counts[kind] += len(records)
            except FilesGone as error:
                gone.append(str(error))
        return Replayed(counts[Kind.DECISION], counts[Kind.BATCH], tuple(gone))

    def _replay(self, kind: Kind, records: Sequence[Record]) -> None:
        if kind is Kind.DECISION:
            replay_decisions(self.models, records)
        for record in records if kind is Kind.BATCH else ():
            self._replay_batch(record)

    def _replay_batch(self, record: Record) -> None:
        try:
            job = read_job(record)
        except UNREADABLE as error:
            raise ReplayDiffers(f"Batch {record['id']} cannot be recomputed: its record is edited.") from error
        replay_batch(self.models, job, self.storage, self.jobs.score_spans(job))

    def export(self) -> Iterator[tuple[Kind, str]]:
        """Yield the chain: what each receipt is of, and its line of JSON.

        A line holds `digest`, and `content` as the very text that it is the SHA-256 of. Protected values are in it as a
        digest only. Raises `ChainBroken` as `verify` does.
        """
        for kind, record, at in self._checked(None, _silent):
            text = content(kind, record, at.number, at.previous, at.format)
            yield kind, json.dumps({"digest": at.digest, "content": text}, ensure_ascii=False)

    def _checked(self, last: Receipt | None, report: Report) -> Iterator[tuple[Kind, Record, Receipt]]:
        """Yield what follows a receipt, as far as it is right; then raise `ChainBroken`."""
        for link in self._links(last.number if last else 0, report):
            record, last = followed(link, last)
            yield link.kind, record, last

    def _links(self, place: int, report: Report) -> Iterator[Link]:
        """Yield the chain after a receipt's number; what an edit made unreadable is a broken chain, not our fault."""
        links = self.chain.links(place)
        while True:
            try:
                link = next(links, None)
            except UNREADABLE as error:
                raise ChainBroken(f"What follows receipt {place} cannot be read: it was edited.") from error
            if link is None:
                return
            yield link
            place = link.receipt.number if link.receipt else place
            if place % REPORTED == 0:
                report(place)


def _runs(links: Iterator[Link]) -> Iterator[tuple[Kind, list[Record]]]:
    """Yield the records, decisions that follow one another together, a batch by itself.

    What was read before a place that cannot be read comes before the error.
    """
    run: list[Record] = []
    try:
        for link in links:
            if link.record is None:
                continue
            if link.kind is Kind.BATCH or len(run) == TOGETHER:
                yield Kind.DECISION, run
                run = []
            if link.kind is Kind.BATCH:
                yield link.kind, [link.record]
            else:
                run.append(link.record)
    except ChainBroken:
        yield Kind.DECISION, run
        raise
    yield Kind.DECISION, run


def followed(link: Link, last: Receipt | None) -> tuple[Record, Receipt]:
    """Return what the link holds where its receipt follows the last one and is its record's; else `ChainBroken`."""
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


def _is_recorded(kind: Kind, record: Record, at: Receipt) -> bool:
    try:
        return sha256(content(kind, record, at.number, at.previous, at.format)) == at.digest
    except UNREADABLE:  # values that could never have been recorded
        return False


def _name(link: Link) -> str:
    return f"{link.kind.value.capitalize()} {link.record['id'] if link.record else '?'}"
