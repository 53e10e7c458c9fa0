"""Whether one decision is still what was recorded. `services/audit.py` proves the whole chain."""

from bankportal.domain.receipt import Receipt, receipt
from bankportal.services.audit import ChainBroken
from bankportal.store.chain import UNREADABLE, Chain


def proven(chain: Chain, id: str) -> Receipt:  # noqa: A002  # the field's name
    """Recompute a decision's receipt from what is stored of it and the receipt before, and return it.

    `NotFound` where there is no such decision, `ChainBroken` where it is not what was recorded.
    """
    try:
        link, before = chain.of_decision(id)
        if link.receipt is None or link.entry is None:
            raise ChainBroken(f"Decision {id} has no receipt: it was inserted.")
        if before is None and link.receipt.number > 1:
            raise ChainBroken(f"Receipt {link.receipt.number - 1}, before this decision's, is missing.")
        if receipt(link.entry, before) != link.receipt:
            raise ChainBroken(f"Decision {id} (receipt {link.receipt.number}) is not what was recorded.")
    except UNREADABLE as error:
        raise ChainBroken(f"Decision {id} cannot be read: it was edited.") from error
    return link.receipt
