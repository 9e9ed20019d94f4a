import os

from hypothesis import settings

from packages import site
from trained import surroundings, trained

__all__ = ["site", "surroundings", "trained"]  # fixtures of every test

# What ships would be in every listing; set before any fixture makes a registry.
os.environ["PREFREG_NO_STARTER"] = "1"
# Lines of progress, which a busy machine would put among what is compared.
os.environ["PREFREG_LOG_SECONDS"] = "3600"

# No deadline: two busy cores are slower than any; no data base: tests leave nothing behind.
settings.register_profile("steady", deadline=None, database=None)
settings.load_profile("steady")
