"""Checks an exported chain of receipts without the portal: standard library alone.

    python verify_receipts.py EXPORT [NUMBER:DIGEST]

Each line of EXPORT (`flask audit export`) is a JSON object: `content`, the canonical text of one decision, and
`digest`, its SHA-256. The content holds its `number`, from 1 without gaps, and `previous`, the digest of the line
before (64 zeros at the start). NUMBER:DIGEST is a head kept from earlier (`flask audit head`): the chain must still hold it.
"""

import hashlib
import json
import sys


def check(lines, head=None):
    """Return the last line's NUMBER:DIGEST; raise ValueError at the first line that is not right."""
    number, previous, seen = 0, "0" * 64, head is None
    for number, line in enumerate(lines, start=1):
        receipt = json.loads(line)
        content = json.loads(receipt["content"])
        if hashlib.sha256(receipt["content"].encode()).hexdigest() != receipt["digest"]:
            raise ValueError(f"line {number}: the digest is not that of the content")
        if content["number"] != number or content["previous"] != previous:
            raise ValueError(f"line {number}: it does not follow the line before")
        previous = receipt["digest"]
        seen = seen or f"{number}:{previous}" == head
    if not seen:
        raise ValueError(f"the chain does not hold the head {head}")
    return f"{number}:{previous}"


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        with open(sys.argv[1], encoding="utf-8") as file:
            print("right up to", check(file, *sys.argv[2:]))
    except (ValueError, KeyError, TypeError, OSError) as error:
        sys.exit(f"not right: {error}")
