from packages import site
from trained import surroundings, trained

__all__ = ["site", "surroundings", "trained"]  # fixtures of every test
