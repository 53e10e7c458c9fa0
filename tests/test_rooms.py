"""The rooms of the house: none takes more than an eighth of the lines, and each is part of the package."""

import configparser
from collections import Counter
from pathlib import Path

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
