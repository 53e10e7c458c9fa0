"""`flask data`: make a bank, complete a real file, check a file before it is trained on."""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bankportal.cli.common import EXISTING, FILE, PRODUCT, reported
from bankportal.domain.products import CHURN, Product


@click.group()
def data() -> None:
    """Simulate, augment and check data files."""
