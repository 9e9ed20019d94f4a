"""Measuring: what a composition does, and whether that is enough."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefreg.api.composing import Terms
from prefreg.api.opened import Opened
from prefreg.terms import as_terms

if TYPE_CHECKING:
    from prefreg.evaluation.evaluate import Gate
    from prefreg.evaluation.evaluation_request import EvaluationRequest
    from prefreg.evaluation.evaluator import Evaluation
    from prefreg.evaluation.paper.reproduce import Reproduced
    from prefreg.evaluation.paper.run_folder import ReproduceRequest
    from prefreg.evaluation.requirements import Requirement
    from prefreg.evaluation.sweep import Grid, Sweep
    from prefreg.progress import Progress


class Measuring(Opened):
    """Figures of compositions, beside their base."""

    def evaluate(
        self,
        terms: Terms,
        request: "EvaluationRequest | None" = None,
        *,
        progress: "Progress | None" = None,
        **options: Any,
    ) -> "Evaluation":
        """Measure a composition beside its base, in memory: figures with intervals.

        Further options are the fields of `EvaluationRequest`.

        Raises:
            UsageError: A term or an option is malformed.
            AxisError: An axis that shall be scored is not installed.
            RegistryError: A term has no version on the base.
            DataError: A metric failed on an answer, or a file cannot be read.
        """
        from prefreg.evaluation.evaluate import evaluate
        from prefreg.evaluation.evaluation_request import EvaluationRequest

        wanted = request or EvaluationRequest(**options)
        return evaluate(self.access, as_terms(terms), wanted, progress)

    def gate(
        self,
        terms: Terms,
        require: "str | Sequence[Requirement]",
        request: "EvaluationRequest | None" = None,
        *,
        strict: bool = False,
        progress: "Progress | None" = None,
        **options: Any,
    ) -> "Gate":
        """Measure a composition and decide on bounds such as `"harmless>=0.7,kl<=2"`.

        Raises:
            UsageError: A requirement is malformed or names no figure.
            DataError: A figure was not measured.
        """
        from prefreg.evaluation.evaluate import gate
        from prefreg.evaluation.evaluation_request import EvaluationRequest
        from prefreg.evaluation.requirements import parse_requirements

        bounds = parse_requirements(require) if isinstance(require, str) else require
        wanted = request or EvaluationRequest(**options)
        return gate(self.access, as_terms(terms), bounds, wanted, strict=strict, progress=progress)

    def sweep(
        self,
        grid: "str | Sequence[str] | Grid",
        output: str | Path = "sweep",
        request: "EvaluationRequest | None" = None,
        *,
        overwrite: bool = False,
        progress: "Progress | None" = None,
        **options: Any,
    ) -> "Sweep":
        """Measure every setting of a grid, `["helpful=-1:1:0.5", "harmless=-1,0,1"]`.

        Writes a table, pictures and a report into a folder. Further options are the fields of
        `EvaluationRequest`. What was measured before an interruption is not repeated.

        Raises:
            UsageError: The grid is malformed.
            OutputError: The folder holds something else, or a sweep that may not be replaced.
        """
        from prefreg.evaluation.evaluation_request import EvaluationRequest
        from prefreg.evaluation.sweep import Grid, parse_grid, sweep

        if not isinstance(grid, Grid):
            grid = parse_grid([grid] if isinstance(grid, str) else grid)
        wanted = request or EvaluationRequest(**options)
        return sweep(
            self.access, grid, wanted, Path(output), overwrite=overwrite, progress=progress
        )

    def reproduce(
        self,
        request: "ReproduceRequest | str",
        output: str | Path | None = None,
        *,
        progress: "Progress | None" = None,
        note: Callable[[str], None] | None = None,
        **options: Any,
    ) -> "Reproduced":
        """Repeat an experiment of the paper, into a folder; `reproduce("grid", "out", seeds=(0,))`.

        Vectors are taken from this registry where it has them, and trained into the folder where
        it has not. Further options are the fields of `ReproduceRequest`. The same call goes on
        after an interruption.

        Raises:
            UsageError: There is no such experiment, or it takes other axes.
            OutputError: The folder holds something else.
            PrefregError: Whatever adding an axis or evaluating raises.
        """
        from prefreg.evaluation.paper.reproduce import reproduce
        from prefreg.evaluation.paper.run_folder import ReproduceRequest

        if isinstance(request, str):
            target = Path("reproduced", request) if output is None else Path(output)
            request = ReproduceRequest(request, target, **options)
        return reproduce(self.access, request, progress=progress, note=note)
