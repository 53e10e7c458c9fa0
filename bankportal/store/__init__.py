"""What the portal keeps: decisions, receipts, jobs, model versions and keys in the database, uploads in a folder."""
