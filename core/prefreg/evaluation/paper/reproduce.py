"""Run an experiment from its request to its folder; what was done before a kill is not repeated."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefreg.axes.find import find_axis
from prefreg.checkpoints.bundled import world_of
from prefreg.errors import UsageError
from prefreg.evaluation.paper import run_folder
from prefreg.evaluation.paper.catalogue import experiment_axes, find_experiment
from prefreg.evaluation.paper.findings import Findings
from prefreg.evaluation.paper.lab import Laboratory
from prefreg.evaluation.paper.run_folder import ReproduceRequest
from prefreg.progress import Progress
from prefreg.registry.access import Access


@dataclass(frozen=True, slots=True)
class Reproduced:
    """An experiment that was carried out."""

    request: ReproduceRequest
    folder: Path
    findings: Findings
    results: dict[str, Any]


def reproduce(
    access: Access,
    request: ReproduceRequest,
    *,
    note: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Reproduced:
    """Carry out an experiment; vectors are taken from the registry or trained into the folder."""
    experiment = find_experiment(request.name)
    named = request.axes or experiment_axes(request.name, world_of(request.base))
    axes = tuple(find_axis(name).installed.axis.name for name in named)
    if not experiment.fewest <= len(axes) <= experiment.most:
        raise UsageError(
            f"The experiment {request.name!r} takes {experiment.count}, not {', '.join(axes)}."
        )
    run = experiment.load()
    lab = Laboratory(
        request=request,
        axes=axes,
        given=access,
        folder=request.output,
        note=note or (lambda text: None),
        progress=progress,
    )
    run_folder.claim(request)
    try:
        found = run(lab)
    except BaseException:
        run_folder.give_up(request.output)
        raise
    found.notes += [f"A guard was missed: {each}." for each in lab.missed]
    results = run_folder.finish(request.output, request, experiment.summary, found)
    return Reproduced(request, request.output, found, results)
