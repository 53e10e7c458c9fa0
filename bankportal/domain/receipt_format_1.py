"""What a receipt of format 1 fixes, listed key by key. Frozen: whoever needs another key writes another format.

A record is what is stored, by column: a decision with its `protected` values and their `salt`, or a batch. Raises
`ValueError`, `KeyError`, `TypeError` or `AttributeError` where a record is not of this format.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any

from bankportal.domain.canonical import canonical, instant, sha256

Record = Mapping[str, Any]

LIMIT = {"amount", "ceiling", "rule", "requested", "counteroffer", "obligations_assumed"}
FLAG = {"factor", "message"}
REASON = {"factor", "rule", "contribution", "sentence"}
SUMMARY = {"scored", "rejected", "quarantined", "bands", "mean_score"}
CHECKED = {"rows", "good", "rejected", "groups", "more"}
GROUP = {"column", "factor", "code", "message", "rows", "examples"}
EXAMPLE = {"line", "text"}


def decision(record: Record) -> dict[str, Any]:
    """Return what is fixed of a decision: the answer, its input, who answered, when."""
    return {
        "id": record["id"],
        "submission": record["submission"],
        "at": instant(record["at"]),
        "product": record["product"],
        "input": {"carried": record["carried"], "scored": record["scored"], "policy": record["policy"]},
        # Fixes the protected values without showing them; the salt keeps them from being guessed.
        "protected": sha256(record["salt"] + canonical(record["protected"])),
        "score": record["score"],
        "band": record["band"],
        "limit": None if record["limit"] is None else _with(LIMIT, record["limit"]),
        "flags": _each_with(FLAG, record["flags"]),
        "base": record["base"],
        "contributions": record["contributions"],
        "reasons": _each_with(REASON, record["reasons"]),
        "model": {"version": record["model_version"], "digest": record["model_digest"]},
        "policy_version": record["policy_version"],
    }


def batch(record: Record) -> dict[str, Any]:
    """Return what is fixed of a batch: the file, how it was read, who answered, and the digests of the answers.

    Of what the check found only the digest: it quotes cells of the file.
    """
    checked = None if record["checked"] is None else _checked(record["checked"])
    return {
        "kind": "batch",
        "id": record["id"],
        "state": record["state"],
        "at": instant(record["at"]),
        "started_at": instant(record["started_at"]),
        "finished_at": instant(record["finished_at"]),
        "product": record["product"],
        "input": {
            "name": record["file_name"],
            "digest": record["input_digest"],
            "bytes": record["input_bytes"],
            "header": record["header_digest"],
            "layout": record["layout"],
            "mapping": record["mapping"],
        },
        "checked": sha256(canonical(checked)) if checked else None,
        "model": {"version": record["model_version"], "digest": record["model_digest"]},
        "policy_version": record["policy_version"],
        "rows": checked["rows"] if checked else None,
        "summary": None if record["summary"] is None else _with(SUMMARY, record["summary"]),
        "files": record["files"],
    }


def _checked(stored: Record) -> Record:
    for group in _each_with(GROUP, stored["groups"]):
        _each_with(EXAMPLE, group["examples"])
    return _with(CHECKED, stored)


def _each_with(keys: Set[str], stored: Sequence[Record]) -> Sequence[Record]:
    for each in stored:
        _with(keys, each)
    return stored


def _with(keys: Set[str], stored: Record) -> Record:
    """Return a stored object as it is; `ValueError` where it does not hold these keys and no others."""
    if stored.keys() != keys:
        raise ValueError(f"format 1 holds {', '.join(sorted(keys))} here, not {', '.join(sorted(stored))}")
    return stored
