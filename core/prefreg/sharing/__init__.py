"""Vectors for others: the Hub, and what travels with them."""
