"""Declaration files: their tables, their shape, what must hold between them, and reading them."""
