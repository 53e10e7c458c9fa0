"""What the portal keeps in its database: decisions, model versions and which of them was active when."""
