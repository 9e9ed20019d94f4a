"""Load a base model with dials, or put dials on a model that is loaded already."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import torch
from transformers import PreTrainedModel

from prefreg.checkpoints import BaseModel, on_disk_names, resolve_base
from prefreg.errors import BaseModelError, UsageError
from prefreg.flows.access import Access
from prefreg.flows.resolve import refuse_mixed_contrasts, resolve_on, resolve_terms
from prefreg.serving import Dials, SteeredModel
from prefreg.terms import Term
from prefreg.training.loading import load_model, load_tokenizer, on_gpu, quiet
from prefreg.vectors import Vector, open_vector, read_tensor


def load_steered(
    access: Access, terms: Sequence[Term], base: str | None, at: datetime | None = None
) -> SteeredModel:
    """Load a base model with dials, set to `terms`; `at` looks versions up as of a moment.

    Raises:
        RegistryError: A term has no version, or several bases fit and none was named.
        BaseModelError: The base is missing or has changed.
    """
    if base is not None and not terms:
        found = resolve_base(base)  # needs no registry: the base may be used as it is
    else:
        with access.reading() as store:
            found = resolve_terms(store, terms, base, at=at).base
    with quiet():
        model, tokenizer = on_gpu(load_model(found, "auto")), load_tokenizer(found)
    model.train(False)
    dials = make_dials(model, found)
    return SteeredModel(dials, tokenizer, VectorShelf(found, access, at)).set(terms)


@contextmanager
def steer_loaded(
    model: PreTrainedModel, terms: Sequence[Term], base: str | None, access: Access
) -> Iterator[None]:
    """Turn the weights of a loaded model, and give them back bit for bit.

    Raises:
        UsageError: The model does not know where it came from and `base` is absent.
        BaseModelError: The model is not that base.
        RegistryError: A term has no version on that base.
    """
    spec = base or model.config.name_or_path
    if not spec:
        raise UsageError("The model does not say where it came from; name its base with base=.")
    found = resolve_base(spec)
    dials = make_dials(model, found)
    check_same_weights(model, dials, found)
    vectors = VectorShelf(found, access)(terms)
    try:
        dials.apply(vectors)
        yield
    finally:
        dials.restore()


def make_dials(model: PreTrainedModel, base: BaseModel) -> Dials:
    """Put dials on a loaded model whose parameters are those of `base`.

    Raises:
        BaseModelError: The parameters do not match the names of the checkpoint.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return Dials(model, on_disk_names(shapes, model.base_model_prefix, base.checkpoint))


def check_same_weights(model: PreTrainedModel, dials: Dials, base: BaseModel) -> None:
    """Compare a loaded model with its base on disk, each tensor in the model's dtype.

    Raises:
        BaseModelError: A tensor differs.
    """
    for name, parameter in model.named_parameters():
        stored = read_tensor(base.checkpoint.tensors[dials.stored_name(name)])
        if not torch.equal(stored.to(parameter.dtype), parameter.detach().cpu()):
            raise BaseModelError(
                f"The loaded model is not the base {base.name}: tensor {name!r} differs. "
                "Steer the untouched base model, or name another with base=."
            )


class VectorShelf:
    """Finds the vectors of terms on one base, and keeps those it has opened."""

    def __init__(self, base: BaseModel, access: Access, at: datetime | None = None) -> None:
        """Look vectors of `base` up in the registry, as of a moment where one is given."""
        self._base = base
        self._access = access
        self._at = at
        self._vectors: dict[str, Vector] = {}

    def __call__(self, terms: Sequence[Term]) -> list[tuple[float, Vector]]:
        """Return coefficient and vector of every term that is not at 0, in canonical order."""
        if not terms:
            return []  # needs no registry
        with self._access.reading() as store:
            found = resolve_on(store, terms, self._base.fingerprint.weights, self._at)
            refuse_mixed_contrasts([term.record for term in found if term.eta])
            for term in found:
                if term.record.sha256 not in self._vectors:
                    source = store.vector_source(term.record)
                    self._vectors[term.record.sha256] = open_vector(
                        source, kind=term.record.kind, label=f"The vector of {term.record}"
                    )
        return [(term.eta, self._vectors[term.record.sha256]) for term in found if term.eta]
