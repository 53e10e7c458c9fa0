"""Finds `templates/`, `static/` and `migrations_data/`: at the top of a checkout, inside the package once installed."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """Return the folder of that name; `FileNotFoundError` where the installation lacks it."""
    for folder in (PACKAGE / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"this installation lacks its {name} folder")


def in_checkout() -> bool:
    """Say whether the portal runs from a source checkout."""
    return (PACKAGE.parent / "setup.cfg").is_file()
