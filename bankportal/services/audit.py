"""Proving past answers: the chain of receipts checked, every decision recomputed, the chain exported."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sqlalchemy.exc import SQLAlchemyError

from bankportal.domain.errors import PortalError, VersionRefused
from bankportal.domain.outcome import Decision, Outcome
from bankportal.domain.policy import POLICIES
from bankportal.domain.receipt import START, Receipt, content, receipt
from bankportal.services.models import Models
from bankportal.services.scoring import answer
from bankportal.store.decisions import Decisions, Link

# What an edit can make of stored values, beyond making them wrong.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError, SQLAlchemyError)


class ChainBroken(PortalError):
    """The chain of receipts is not what was written; the message names the first place that differs."""

    code = "chain-broken"


class ReplayDiffers(PortalError):
    """A decision recomputed is not the decision recorded; the message names it and what differs."""

    code = "replay-differs"


@dataclass(frozen=True)
class Head:
    """An exported end of the chain, kept outside the portal: what must still be there later."""

    number: int
    digest: str


class Audit:
    """What an auditor asks of the recorded decisions."""

    def __init__(self, decisions: Decisions, models: Models):
        self.decisions = decisions
        self.models = models

    def verify(self, head: Head | None = None) -> Receipt | None:
        """Check the whole chain and return its newest receipt (`None`: no decisions).

        Raises `ChainBroken` naming the first decision that was edited, deleted, moved, inserted or, against a `head`
        exported earlier, cut off.
        """
        last: Receipt | None = None
        for link in self._links():
            last = _checked(link, last)
            if head and last.number == head.number and last.digest != head.digest:
                raise ChainBroken(f"Receipt {last.number} is not the one of the exported head.")
        if head and (last is None or last.number < head.number):
            raise ChainBroken(
                f"The chain ends at {last.number if last else 0}, before the exported head {head.number}."
            )
        return last

    def replay(self) -> int:
        """Recompute every decision from its stored input and model version, and return how many there were.

        Raises `ReplayDiffers` naming the first that is not equal bit for bit. Sentences are not compared: the bank may
        have edited its words since; the chain proves those.
        """
        count = 0
        for link in self._links():
            if link.decision:
                self._replay(link.decision)
                count += 1
        return count

    def _replay(self, decision: Decision) -> None:
        customer, recorded = decision.customer, decision.outcome
        policy = POLICIES.get(recorded.policy_version or "")
        if recorded.policy_version and policy is None:
            raise ReplayDiffers(f"Decision {decision.id}: limit policy {recorded.policy_version} is no longer known.")
        try:
            model = self.models.registry.model(customer.product, recorded.model_version, recorded.model_digest)
            again = answer(customer, model, self.models.catalogue, policy)
        except VersionRefused as error:
            raise ReplayDiffers(f"Decision {decision.id} cannot be recomputed: {error}") from error
        except UNREADABLE as error:
            raise ReplayDiffers(
                f"Decision {decision.id} cannot be recomputed: its input is not what is scored."
            ) from error
        if differing := _differences(recorded, again):
            raise ReplayDiffers(f"Decision {decision.id} recomputed differs in {', '.join(differing)}.")

    def _links(self) -> Iterator[Link]:
        """Yield the chain; what an edit has made unreadable is a broken chain, not a fault of ours."""
        place = 0
        links = self.decisions.chain()
        while True:
            try:
                link = next(links, None)
            except UNREADABLE as error:
                raise ChainBroken(f"The decision after receipt {place} cannot be read: it was edited.") from error
            if link is None:
                return
            place = link.receipt.number if link.receipt else place
            yield link

    def export(self) -> Iterator[str]:
        """Yield the chain as lines of JSON: `digest`, and `content` as the very text that it is the SHA-256 of.

        Protected values are in it as a digest only. Raises `ChainBroken` as `verify` does.
        """
        last: Receipt | None = None
        for link in self._links():
            last = _checked(link, last)
            assert link.decision is not None
            assert link.salt is not None
            text = content(link.decision, link.submission, link.salt, last.number, last.previous)
            yield json.dumps({"digest": last.digest, "content": text}, ensure_ascii=False)


def _checked(link: Link, last: Receipt | None) -> Receipt:
    """Return the link's receipt where it follows the last one and is its decision's; else raise `ChainBroken`."""
    expected = last.number + 1 if last else 1
    if link.receipt is None:
        raise ChainBroken(f"Decision {link.decision.id if link.decision else '?'} has no receipt: it was inserted.")
    if link.decision is None:
        raise ChainBroken(f"Receipt {link.receipt.number} has no decision: it was deleted.")
    if link.receipt.number != expected:
        raise ChainBroken(f"Receipt {expected} is missing: the next one there is {link.receipt.number}.")
    if link.receipt.previous != (last.digest if last else START):
        raise ChainBroken(f"Receipt {expected} does not follow the one before it.")
    if not _is_recorded(link, link.decision, last):
        raise ChainBroken(f"Decision {link.decision.id} (receipt {expected}) is not what was recorded.")
    return link.receipt


def _is_recorded(link: Link, decision: Decision, last: Receipt | None) -> bool:
    try:
        return link.salt is not None and receipt(decision, link.submission, link.salt, last) == link.receipt
    except UNREADABLE:  # values that could never have been recorded
        return False


def _differences(recorded: Outcome, again: Outcome) -> list[str]:
    """Name the fields in which two outcomes differ; numbers must be equal to the last bit."""
    old, new = _without_sentences(recorded), _without_sentences(again)
    return [name for name in old.__dataclass_fields__ if not _same(getattr(old, name), getattr(new, name))]


def _same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return one == other


def _without_sentences(outcome: Outcome) -> Outcome:
    return replace(outcome, reasons=tuple(replace(reason, sentence="") for reason in outcome.reasons))
