"""The domain's tests start at once: nothing that serves, stores, scores or trains is loaded for them."""

import subprocess
import sys
from pathlib import Path

HEAVY = ["flask", "numba", "numpy", "pandas", "sklearn", "sqlalchemy", "werkzeug"]
TESTS = sorted({str(path) for path in Path(__file__).parent.glob("test_domain_*.py")} - {__file__})
CODE = f"""
import sys
import pytest
print(int(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]])), sorted({set(HEAVY)} & set(sys.modules)))
"""


def test_they_load_neither_app_nor_database_nor_forest() -> None:
    assert len(TESTS) > 3
    command = [sys.executable, "-c", CODE, *TESTS]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout
