"""Axes: what one is, how plugins bring them, and where their rows come from."""
