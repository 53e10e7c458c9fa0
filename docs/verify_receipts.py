"""Checks an exported chain of receipts without the portal: standard library alone.

    python verify_receipts.py EXPORT [NUMBER:DIGEST]

Each line of EXPORT (`flask audit export`) is a JSON object: `content`, the canonical text of one decision, batch or
event, and `digest`, its SHA-256. The content holds its `number`, from 1 without gaps, and `previous`, the digest of the
line before (64 zeros at the start). That of a batch has the `kind` "batch" and the digests of its files. That of an
event has the `kind` "event", and says what was done (`event`) to what (`subject`), by whom (`actor`), and when (`at`).
Each names its `format`. From format 2 on there are events, and decisions and batches say who caused them (`actor`), by
which way they came in (`door`), and the digests of the `declarations` that they stand on. This script knows the formats
in FORMATS, and says so where a newer release wrote another. NUMBER:DIGEST is a head kept from earlier (`flask audit
head`): the chain must still hold it.
"""

import hashlib
import json
import sys

# The kinds that each format knows; `None` stands for a decision, which names none.
FORMATS = {1: (None, "batch"), 2: (None, "batch", "event")}


def once(pairs):
    """Refuse an object that names a key twice: which of the two counts would be a matter of taste."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def check(lines, head=None):
    """Return the last line's NUMBER:DIGEST and how many decisions, batches and events there are.

    Raise ValueError at the first line that is not right.
    """
    number, previous, seen, counts = 0, "0" * 64, head is None, {None: 0, "batch": 0, "event": 0}
    for number, line in enumerate(lines, start=1):
        try:
            receipt = json.loads(line, object_pairs_hook=once)
            if set(receipt) != {"digest", "content"}:
                raise ValueError("it must hold digest and content, and nothing else")
            if hashlib.sha256(receipt["content"].encode()).hexdigest() != receipt["digest"]:
                raise ValueError("the digest is not that of the content")
            content = json.loads(receipt["content"], object_pairs_hook=once)
            place = content["number"], content["previous"]
            if type(place[0]) is not int or place != (number, previous):
                raise ValueError("it does not follow the line before")
            if content["format"] not in FORMATS:
                raise ValueError(f"it has format {content['format']}, which a newer release wrote")
            kind = content.get("kind")
            if kind not in FORMATS[content["format"]] or (kind is None and "kind" in content):
                raise ValueError("it is of no kind that its format knows")
            counts[kind] += 1
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from None
        previous = receipt["digest"]
        seen = seen or f"{number}:{previous}" == head
    if not seen:
        raise ValueError(f"the chain does not hold the head {head}")
    if not number:
        raise ValueError("there is no receipt in it")
    return f"{number}:{previous}", *counts.values()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        with open(sys.argv[1], encoding="utf-8") as file:
            end, decisions, batches, events = check(file, *sys.argv[2:])
        print(f"{decisions} decisions, {batches} batches and {events} events, right up to {end}")
    except (ValueError, OSError) as error:
        sys.exit(f"not right: {error}")
