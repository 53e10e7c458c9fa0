"""The simulated populations: customers and applicants, what they do, and what becomes of them."""
