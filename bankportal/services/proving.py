"""Verifies one decision. `services/audit.py` verifies the whole chain."""

from bankportal.domain.receipt import Receipt
from bankportal.services.audit import ChainBroken, verified_link
from bankportal.store.chain import UNREADABLE, Chain


def verified_receipt(chain: Chain, id: str) -> Receipt:  # noqa: A002  # the field's name
    """Return a decision's receipt after computing it again from the stored decision and the receipt before.

    Raises `NotFound` where there is no such decision, `ChainBroken` where it is not what was recorded.
    """
    try:
        link, before = chain.of_decision(id)
    except UNREADABLE as error:
        raise ChainBroken(f"Decision {id} cannot be read: it was edited.") from error
    if before is None and link.receipt and link.receipt.number > 1:
        raise ChainBroken(f"Receipt {link.receipt.number - 1}, before this decision's, is missing.")
    _, receipt = verified_link(link, before)
    return receipt
