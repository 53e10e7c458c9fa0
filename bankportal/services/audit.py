"""Proving past answers: the chain of receipts checked and exported, every decision and batch recomputed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from bankportal.domain.batch import Job
from bankportal.domain.errors import PortalError
from bankportal.domain.receipt import START, ChainEntry, Receipt, RecordedDecision, content, receipt
from bankportal.services.batches.replaying import FilesGone, replay_batch, replay_decision
from bankportal.services.models import Models
from bankportal.store.chain import UNREADABLE, Chain, Link
from bankportal.store.jobs import JobStore
from bankportal.store.storage import Storage


class ChainBroken(PortalError):
    """The chain of receipts is not what was written; the message names the first place that differs."""

    code = "chain-broken"


@dataclass(frozen=True)
class Head:
    """An exported end of the chain, kept outside the portal: what must still be there later."""

    number: int
    digest: str


@dataclass(frozen=True)
class Verified:
    """A chain that is right: how many decisions and batches it holds, and its newest receipt."""

    decisions: int
    batches: int
    head: Receipt | None


@dataclass(frozen=True)
class Replayed:
    """What was recomputed and found equal; `gone` says of each batch whose files are gone that it was not."""

    decisions: int
    batches: int
    gone: tuple[str, ...]


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

    def verify(self, head: Head | None = None) -> Verified:
        """Check the whole chain: the database alone, not the files of batches.

        Raises `ChainBroken` naming the first decision or batch that was edited, deleted, moved, inserted or, against a
        `head` exported earlier, cut off.
        """
        last: Receipt | None = None
        batches = 0
        for entry, last in self._checked():
            batches += isinstance(entry, Job)
            if head and last.number == head.number and last.digest != head.digest:
                raise ChainBroken(f"Receipt {last.number} is not the one of the exported head.")
        count = last.number if last else 0
        if head and count < head.number:
            raise ChainBroken(f"The chain ends at {count}, before the exported head {head.number}.")
        return Verified(count - batches, batches, last)

    def replay(self) -> Replayed:
        """Recompute every decision from its stored input, every batch from its stored file, by their model versions.

        Raises `ReplayDiffers` naming the first that is not equal bit for bit. Sentences are not compared: the bank may
        have edited its words since; the chain proves those. A batch of which a file is gone is named and passed over.
        """
        count = {RecordedDecision: 0, Job: 0}
        gone = []
        for link in self._links():
            try:
                if link.entry:
                    self._replay(link.entry)
                    count[type(link.entry)] += 1
            except FilesGone as error:
                gone.append(str(error))
        return Replayed(count[RecordedDecision], count[Job], tuple(gone))

    def _replay(self, entry: ChainEntry) -> None:
        if isinstance(entry, RecordedDecision):
            replay_decision(self.models, entry.decision)
        else:
            replay_batch(self.models, entry, self.storage, self.jobs.score_spans(entry))

    def export(self) -> Iterator[tuple[ChainEntry, str]]:
        """Yield the chain: each decision or batch, and its line of JSON.

        A line holds `digest`, and `content` as the very text that it is the SHA-256 of. Protected values are in it as a
        digest only. Raises `ChainBroken` as `verify` does.
        """
        for entry, at in self._checked():
            text = content(entry, at.number, at.previous)
            yield entry, json.dumps({"digest": at.digest, "content": text}, ensure_ascii=False)

    def _checked(self) -> Iterator[tuple[ChainEntry, Receipt]]:
        """Yield the chain as far as it is right; then raise `ChainBroken`."""
        last: Receipt | None = None
        for link in self._links():
            entry, last = _followed(link, last)
            yield entry, last

    def _links(self) -> Iterator[Link]:
        """Yield the chain; what an edit has made unreadable is a broken chain, not a fault of ours."""
        place = 0
        links = self.chain.links()
        while True:
            try:
                link = next(links, None)
            except UNREADABLE as error:
                raise ChainBroken(f"What follows receipt {place} cannot be read: it was edited.") from error
            if link is None:
                return
            place = link.receipt.number if link.receipt else place
            yield link


def _followed(link: Link, last: Receipt | None) -> tuple[ChainEntry, Receipt]:
    """Return what the link holds where its receipt follows the last one and is its entry's; else `ChainBroken`."""
    expected = last.number + 1 if last else 1
    if link.receipt is None:
        raise ChainBroken(f"{_name(link.entry)} has no receipt: it was inserted.")
    if link.receipt.number != expected:
        raise ChainBroken(f"Receipt {expected} is missing: the next one there is {link.receipt.number}.")
    if link.entry is None:
        raise ChainBroken(f"What receipt {expected} is of is not there: it was deleted.")
    if link.receipt.previous != (last.digest if last else START):
        raise ChainBroken(f"Receipt {expected} does not follow the one before it.")
    if not _is_recorded(link, link.entry, last):
        raise ChainBroken(f"{_name(link.entry)} (receipt {expected}) is not what was recorded.")
    return link.entry, link.receipt


def _is_recorded(link: Link, entry: ChainEntry, last: Receipt | None) -> bool:
    try:
        return receipt(entry, last) == link.receipt
    except UNREADABLE:  # values that could never have been recorded
        return False


def _name(entry: ChainEntry | None) -> str:
    return f"Batch {entry.id}" if isinstance(entry, Job) else f"Decision {entry.decision.id if entry else '?'}"
