"""The rooms of the house: none takes more than an eighth of the lines, each is part of the package.

A room is a folder of the package; a folder inside it is a room of its own.
"""

import configparser
import subprocess
import sys
from collections import Counter
from pathlib import Path

import grimp
import pytest

import bankportal

HOUSE = Path(bankportal.__file__).parent
ROOT = HOUSE.parent


def lines_by_room() -> Counter[str]:
    rooms: Counter[str] = Counter()
    for path in HOUSE.rglob("*.py"):
        rooms[str(path.parent.relative_to(HOUSE.parent))] += path.read_text(encoding="utf-8").count("\n")
    return rooms


def test_no_room_takes_more_than_an_eighth() -> None:
    rooms = lines_by_room()
    largest, lines = rooms.most_common(1)[0]
    assert lines <= rooms.total() / 8, f"{largest} has {lines} of {rooms.total()} lines"


def test_every_room_is_part_of_the_package() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    packages = settings["options"]["packages"].split()
    assert {room.replace("/", ".") for room in lines_by_room()} <= set(packages)


@pytest.mark.parametrize(
    ("room", "known"),
    [
        ("domain", {"orjson", "pydantic", "pydantic_core", "bankportal.resources"}),
        ("answers", {"pydantic"}),
        ("client", {"httpx", "pydantic", "bankportal.answers", "bankportal.version"}),
    ],
)
def test_what_a_room_may_know_beside_the_standard_library(room: str, known: set[str]) -> None:
    """The contracts in `setup.cfg` can forbid a library only by its name; this forbids all the others."""
    graph = grimp.build_graph("bankportal", include_external_packages=True)
    modules = {f"bankportal.{room}"} | graph.find_descendants(f"bankportal.{room}")
    imported = set().union(*map(graph.find_modules_directly_imported_by, modules))
    assert {name for name in imported - modules if name not in sys.stdlib_module_names} == known


# Imports every module; prints the modules that hold something declared, and the declaration files that were opened.
IMPORT_ALL = """
import gc, importlib, pkgutil, sys
opened = []
def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".toml"):
        opened.append(str(arguments[0]))
sys.addaudithook(watch)
import bankportal
for module in pkgutil.walk_packages(bankportal.__path__, "bankportal."):
    importlib.import_module(module.name)
from bankportal.domain.declaration import Declaration
from bankportal.domain.factors import Factor
from bankportal.domain.policy import LimitPolicy
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product
DECLARED = (Declaration, Factor, LimitPolicy, Portfolio, Product)
print(len(list(pkgutil.walk_packages(bankportal.__path__))), opened, [
    type(each).__name__ for each in gc.get_objects() if isinstance(each, DECLARED)
])
"""


def test_no_module_declares_a_product_and_importing_all_reads_no_declaration() -> None:
    """Not as a constant, in a collection, as a default or in a cache: nothing declared exists after all imports."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True, cwd=ROOT)
    modules, rest = done.stdout.strip().split(" ", 1)
    assert int(modules) > 15
    assert rest == "[] []"
