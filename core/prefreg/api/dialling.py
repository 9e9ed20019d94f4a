"""What the dials do: measurements of stored vectors."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from prefreg.api.composing import Terms
from prefreg.api.opened import Opened
from prefreg.terms import as_terms

if TYPE_CHECKING:
    from prefreg.flows.geometry.interference import Interference, InterferenceRequest

Progress = Callable[[str, int, int], None]


class Dialling(Opened):
    """Find out what dials do to the model and to each other."""

    def interference(
        self, terms: "Terms | InterferenceRequest" = (), *, progress: Progress | None = None
    ) -> "Interference":
        """Compare vectors in the weights; without terms, all newest ones of the one base.

        Raises:
            UsageError: A term is malformed or at 0, or there is only one vector.
            RegistryError: A term has no version on the base, or several bases fit.
            VectorError: A vector is damaged.
        """
        from prefreg.flows.geometry.interference import InterferenceRequest, measure_interference

        if not isinstance(terms, InterferenceRequest):
            terms = InterferenceRequest(as_terms(terms))
        return measure_interference(self.access, terms, progress)
