"""Runs of add-axis on pairs that are there already, as tests of the training need them."""

from typing import Any

from prefreg.axes.axis import Axis
from prefreg.axes.plugins import FoundAxis, InstalledAxis, Plugin
from prefreg.checkpoints.bases import BaseModel
from prefreg.data.mixture import Mixture
from prefreg.data.pairs import PairSet
from prefreg.progress import Progress
from prefreg.training.axis_request import AxisRequest, LoraOptions
from prefreg.training.axis_run import AxisRun, ExistingPole
from prefreg.training.guards import Guards
from prefreg.training.pair import TrainedPair, train_pair
from prefreg.training.precision import choose_precision
from prefreg.training.settings import Settings

_GUARDS = Guards()


def make_run(
    base: BaseModel,
    axis: Axis,
    pairs: PairSet,
    settings: Settings,
    *,
    lora: LoraOptions | None = None,
    existing: ExistingPole | None = None,
    guards: Guards = _GUARDS,
    **asked: Any,
) -> AxisRun:
    """Return a run as it is prepared; `asked` are fields of its request."""
    found = FoundAxis(InstalledAxis(axis, Plugin("tests", "tests", "0", axes=(axis,))))
    request, mixture = AxisRequest(axis.name, **asked), Mixture(iter(()))
    settings, precision = choose_precision(
        settings, base, lora=lora is not None, four_bit=request.four_bit
    )
    return AxisRun(
        request, found, base, settings, lora, existing, guards, mixture, pairs, precision
    )


def train(
    base: BaseModel,
    axis: Axis,
    pairs: PairSet,
    settings: Settings,
    *,
    progress: Progress | None = None,
    note: Any = None,
    resumable: bool = False,
    **options: Any,
) -> TrainedPair:
    """Train the pair of such a run."""
    run = make_run(base, axis, pairs, settings, **options)
    return train_pair(run, progress=progress, note=note, resumable=resumable)
