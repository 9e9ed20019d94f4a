from hypothesis import settings

from packages import site
from trained import surroundings, trained

__all__ = ["site", "surroundings", "trained"]  # fixtures of every test

# No deadline: two busy cores are slower than any; no data base: tests leave nothing behind.
settings.register_profile("steady", deadline=None, database=None)
settings.load_profile("steady")
