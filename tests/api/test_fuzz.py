"""Generated requests, right and wrong, on both engines: no server error, nothing that the document does not say."""

from benchmarks.fuzz import run
from tests.api.conftest import address_of
from tests.shipped import ALLOWANCE, CHURN

CASES = 1000  # on both engines together
# Whose scoring is left out of the thousandfold coverage of one schema: the table of operations is the same for both.
LEFT_OUT = {"flask": ALLOWANCE, "fastapi": CHURN}


def test_generated_requests(engine) -> None:
    left_out = LEFT_OUT[engine.name].key
    with address_of(engine) as address:
        found = run(address, 1, uncovered=(f"score-{left_out}", f"score-many-{left_out}"))
    assert found.passed, found.said
    assert found.cases >= CASES // 2
