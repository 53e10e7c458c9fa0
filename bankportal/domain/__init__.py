"""What the portal decides and on which facts: factors, products, bands, policy. Standard library and pydantic only."""
