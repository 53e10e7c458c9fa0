"""Whether one decision is still what was recorded. `services/audit.py` proves the whole chain."""

from bankportal.domain.receipt import Receipt
from bankportal.services.audit import ChainBroken, followed
from bankportal.store.chain import UNREADABLE, Chain


def proven(chain: Chain, id: str) -> Receipt:  # noqa: A002  # the field's name
    """Recompute a decision's receipt from what is stored of it and the receipt before, and return it.

    `NotFound` where there is no such decision, `ChainBroken` where it is not what was recorded.
    """
    try:
        link, before = chain.of_decision(id)
    except UNREADABLE as error:
        raise ChainBroken(f"Decision {id} cannot be read: it was edited.") from error
    if before is None and link.receipt and link.receipt.number > 1:
        raise ChainBroken(f"Receipt {link.receipt.number - 1}, before this decision's, is missing.")
    _, receipt = followed(link, before)
    return receipt
