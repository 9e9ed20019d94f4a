"""What is asked of a study that looks for η."""

from dataclasses import dataclass
from typing import Literal

from prefreg.errors import UsageError

Backend = Literal["geometry", "optuna"]


@dataclass(frozen=True, slots=True)
class TuneRequest:
    """What the settings of a study shall do; every default is the command line's."""

    target: str
    """What is made as large or small as can be, as in helpful=max; several: helpful=max,kl=min."""
    subject_to: str = ""
    """Bounds, as in harmless>=0.7,correct>=0.95,kl<=0.5; kl is in nats per answer."""
    axes: tuple[str, ...] = ()
    """Axes that are turned, as in helpful,harmless@2.  [default: every axis on the base]"""
    budget: int = 40
    """Settings that are measured, those of an earlier part of the study and fresh ones included."""
    study: str | None = None
    """Keep what is measured in the registry under this name, and go on from there."""
    at_once: int = 4
    """Settings that are proposed at a time."""
    backend: Backend = "geometry"
    """Surrogates on the functional geometry, or Optuna's GPSampler (extra `tune`)."""

    def __post_init__(self) -> None:
        for name in ("budget", "at_once"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}.")
