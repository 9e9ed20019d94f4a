"""What every part of the API works on."""

from pathlib import Path

from prefreg.registry import Access


class Opened:
    """A registry by its location; nothing is held open between calls."""

    def __init__(self, location: str | Path | None = None) -> None:
        """Name the registry; it is opened by each call."""
        self.access = Access(location)
