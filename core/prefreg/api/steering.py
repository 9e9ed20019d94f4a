"""Steering a model that is loaded already."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prefreg.api.composing import Terms
from prefreg.api.registry import Registry
from prefreg.errors import UsageError
from prefreg.terms import as_terms

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def steer(
    model: "PreTrainedModel",
    *,
    registry: "str | Path | Registry | None" = None,
    base: str | None = None,
    terms: Terms = (),
    **etas: float,
) -> Iterator["PreTrainedModel"]:
    """Steer a loaded transformers model for the length of a `with` block.

    `with prefreg.steer(model, helpful=1, harmless=0.5): model.generate(...)`. The weights get
    their pristine values back at the end, bit for bit, also after an exception. `base` names the
    base model where the loaded model does not know where it came from.

    Raises:
        UsageError: No axis is named, or an axis is malformed or named twice.
        BaseModelError: The model is not the base that its name says.
        RegistryError: An axis has no vector on this base.
    """
    from prefreg.composition.in_memory import steer_loaded

    opened = registry if isinstance(registry, Registry) else Registry(registry)
    wanted = (*as_terms(terms), *as_terms(etas))
    if not wanted:
        raise UsageError("steer() needs at least one axis, as in steer(model, helpful=1).")
    with steer_loaded(model, wanted, base, opened.access):
        yield model
