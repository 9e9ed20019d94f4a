"""What the dials do: measurements of stored vectors."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prefreg.api.composing import Terms
from prefreg.api.opened import Opened
from prefreg.registry.records import Moment, as_moment
from prefreg.terms import Term, as_terms, parse_reference

if TYPE_CHECKING:
    from prefreg.evaluation.calibration import Calibration
    from prefreg.evaluation.diagnosis import Diagnosis
    from prefreg.evaluation.dial_range import DialRange
    from prefreg.evaluation.evaluation_request import (
        Calibrating,
        EvaluationRequest,
        InterferenceRequest,
        Reach,
    )
    from prefreg.evaluation.interference import Interference
    from prefreg.evaluation.layer_profile import LayerProfile
    from prefreg.evaluation.leakage import Behaviour, Of
    from prefreg.progress import Progress


class Dialling(Opened):
    """Find out what dials do to the model and to each other."""

    def interference(
        self, terms: "Terms | InterferenceRequest" = (), *, progress: "Progress | None" = None
    ) -> "Interference":
        """Compare vectors in the weights; without terms, all newest ones of the one base.

        Raises:
            UsageError: A term is malformed or at 0, or there is only one vector.
            RegistryError: A term has no version on the base, or several bases fit.
            VectorError: A vector is damaged.
        """
        from prefreg.evaluation.evaluation_request import InterferenceRequest
        from prefreg.evaluation.interference import measure_interference

        if not isinstance(terms, InterferenceRequest):
            terms = InterferenceRequest(as_terms(terms))
        return measure_interference(self.access, terms, progress)

    def behaviour(
        self,
        terms: Terms = (),
        request: "EvaluationRequest | None" = None,
        *,
        functional: bool = True,
        leakage: "Of | None" = "margin",
        progress: "Progress | None" = None,
    ) -> "Behaviour":
        """Measure what vectors do to predictions, and which dial moves which axis.

        Raises:
            UsageError: A term is malformed or at 0.
            RegistryError: A term has no version on the base, or several bases fit.
            DataError: Nothing can be measured, or there are too few prompts.
        """
        from prefreg.evaluation.evaluation_request import EvaluationRequest
        from prefreg.evaluation.leakage import measure_behaviour

        return measure_behaviour(
            self.access,
            as_terms(terms),
            request or EvaluationRequest(),
            functional=functional,
            leakage=leakage,
            progress=progress,
        )

    def find_range(
        self,
        dial: str | Term,
        reach: "Reach | None" = None,
        request: "EvaluationRequest | None" = None,
        *,
        store: bool = True,
        progress: "Progress | None" = None,
    ) -> "DialRange":
        """Find how far a dial, such as `"helpful@1"`, may be turned, and keep that with it.

        Raises:
            RegistryError: There is no such version, or the registry cannot be written.
            DataError: Nothing measures the axis, or there are too few prompts.
        """
        from prefreg.evaluation.dial_range import find_range
        from prefreg.evaluation.evaluation_request import EvaluationRequest, Reach

        term = dial if isinstance(dial, Term) else Term(*_reference(dial))
        asked = request or EvaluationRequest()
        return find_range(
            self.access, term, reach or Reach(), asked, store=store, progress=progress
        )

    def calibrate(
        self,
        dials: Iterable[str | Term] = (),
        calibrating: "Calibrating | None" = None,
        request: "EvaluationRequest | None" = None,
        *,
        store: bool = True,
        progress: "Progress | None" = None,
    ) -> "list[Calibration]":
        """Find the scale of every dial at which η = 1 means the same effect, and keep it.

        Raises:
            RegistryError: There is no such version, or the registry cannot be written.
            DataError: An axis has no metric, or it applies to too few answers.
        """
        from prefreg.evaluation.calibration import calibrate
        from prefreg.evaluation.evaluation_request import Calibrating, EvaluationRequest

        terms = [dial if isinstance(dial, Term) else Term(*_reference(dial)) for dial in dials]
        wanted, asked = calibrating or Calibrating(), request or EvaluationRequest()
        return calibrate(self.access, terms, wanted, asked, store=store, progress=progress)

    def profile(
        self,
        dial: str | Term,
        request: "EvaluationRequest | None" = None,
        *,
        blocks: int = 8,
        progress: "Progress | None" = None,
    ) -> "LayerProfile":
        """Measure which layers of a vector do its work, and whether a subset does it for less KL.

        Raises:
            RegistryError: There is no such version.
            DataError: The axis has no held-out pairs here.
        """
        from prefreg.evaluation.evaluation_request import EvaluationRequest
        from prefreg.evaluation.layer_profile import profile_dial

        term = dial if isinstance(dial, Term) else Term(*_reference(dial))
        asked = request or EvaluationRequest()
        return profile_dial(self.access, term, asked, blocks=blocks, progress=progress)

    def diagnose(
        self,
        terms: Terms,
        request: "EvaluationRequest | None" = None,
        *,
        progress: "Progress | None" = None,
    ) -> "Diagnosis":
        """Name what is wrong with a composition: weak, over-refusing or incoherent, and why.

        Raises:
            UsageError: A term is malformed or at 0.
            RegistryError: A term has no version on the base.
            DataError: There is nothing to ask.
        """
        from prefreg.evaluation.diagnosis import diagnose
        from prefreg.evaluation.evaluation_request import EvaluationRequest

        asked = request or EvaluationRequest()
        return diagnose(self.access, as_terms(terms), asked, progress)

    def raw_terms(
        self, terms: Terms, base: str | None = None, *, at: Moment | None = None
    ) -> tuple[Term, ...]:
        """Turn calibrated coefficients into the raw ones that compositions take.

        Raises:
            RegistryError: A version is not calibrated on the side that is asked for.
            UsageError: The versions are calibrated to different effects.
        """
        from prefreg.composition.dial_ranges import translate

        return translate(self.access, as_terms(terms), base, as_moment(at))

    def range_warnings(
        self, terms: Terms, base: str | None = None, *, at: Moment | None = None
    ) -> list[str]:
        """Say which coefficients lie outside the range that was measured of their version."""
        from prefreg.composition.dial_ranges import range_warnings
        from prefreg.composition.resolve import resolve_stored

        with self.access.reading() as store:
            return range_warnings(resolve_stored(store, as_terms(terms), base, as_moment(at)))


def _reference(dial: str) -> tuple[str, float, str | None]:
    axis, reference = parse_reference(dial)
    return axis, 1.0, reference
