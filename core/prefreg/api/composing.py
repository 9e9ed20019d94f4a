"""What vectors are for: compositions on disk and in memory."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefreg.api.opened import Opened
from prefreg.registry.records import Moment, as_moment
from prefreg.terms import Term, as_terms

if TYPE_CHECKING:
    from prefreg.composition.adapter import AdapterResult
    from prefreg.composition.compose import Composed, CompositionPlan
    from prefreg.composition.composition_request import CompositionRequest, ExportRequest
    from prefreg.composition.export import Exported
    from prefreg.composition.in_memory import SteeredModel
    from prefreg.progress import Progress

Terms = Mapping[str, float] | Iterable[str | Term]


class Composing(Opened):
    """Compose stored vectors."""

    def compose(
        self,
        terms: "Terms | CompositionRequest",
        output: str | Path = "composed",
        *,
        progress: "Progress | None" = None,
        **options: Any,
    ) -> "Composed":
        """Write θ_base + Σ ηᵢ·φᵢ as a Hugging Face checkpoint.

        Further options are the fields of `CompositionRequest`.

        Raises:
            UsageError: A term is malformed or an axis is named twice.
            RegistryError: A term has no version on the base.
            BaseModelError: The base is missing, damaged or another one.
            VectorError: A vector is damaged or does not fit, or the sum is not finite.
            OutputError: The destination cannot be written or must not be overwritten.
        """
        from prefreg.composition.compose import compose
        from prefreg.composition.composition_request import CompositionRequest

        if not isinstance(terms, CompositionRequest):
            terms = CompositionRequest(as_terms(terms), Path(output), **options)
        return compose(self.access, terms, progress)

    def compose_adapter(
        self, terms: "Terms | CompositionRequest", output: str | Path = "composed", **options: Any
    ) -> "AdapterResult":
        """Write Σ ηᵢ·φᵢ as one PEFT adapter, exactly unless `max_rank` is set; dense φ need it.

        Raises:
            UsageError: A term is malformed, an axis is named twice, or every η is 0.
            RegistryError: A term has no version on the base.
            VectorError: A vector is dense without `max_rank`, damaged, or does not fit the base.
            OutputError: The destination cannot be written or must not be overwritten.
        """
        from prefreg.composition.adapter import compose_adapter
        from prefreg.composition.composition_request import CompositionRequest

        if not isinstance(terms, CompositionRequest):
            terms = CompositionRequest(as_terms(terms), Path(output), form="adapter", **options)
        return compose_adapter(self.access, terms)

    def export(
        self,
        request: "ExportRequest",
        *,
        progress: "Progress | None" = None,
    ) -> "Exported":
        """Write stored vectors in the form of another tool: adapter, checkpoint or mergekit.

        Raises:
            UsageError: What is named is malformed, or an option belongs to another form.
            RegistryError: There is no such version.
            VectorError: A vector is damaged, or dense for an adapter without a rank.
            OutputError: The destination cannot be written or must not be overwritten.
        """
        from prefreg.composition.export import export

        return export(self.access, request, progress)

    def plan(self, request: "CompositionRequest") -> "CompositionPlan":
        """Say what a composition would read, sum and write, without writing."""
        from prefreg.composition.compose import plan

        return plan(self.access, request)

    def load(
        self, base: str | None = None, terms: Terms = (), *, at: Moment | None = None
    ) -> "SteeredModel":
        """Load a base model with dials, set to `terms`; with `at`, as versions were then.

        Without a base: the one base that the terms, or the whole registry, allow.
        """
        from prefreg.composition.in_memory import load_steered

        return load_steered(self.access, as_terms(terms), base, as_moment(at))
