"""The portal's name and version, the one place that says them."""

BRAND = "Elite Financial Intelligence Portal"

__version__ = "0.1.0"
