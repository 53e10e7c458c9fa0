"""What the portal can do, without HTTP."""
