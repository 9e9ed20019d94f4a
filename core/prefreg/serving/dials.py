"""Turn the parameters of a loaded model by vectors, always from the pristine values."""

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel

from prefreg.composition.engine import compose_tensor, require_finite
from prefreg.vectors.sources import TensorSource


class Dials:
    """A loaded model whose weights can be set to θ_base + Σ ηᵢ·φᵢ and back.

    The pristine weights are kept beside the model, which doubles its memory. Every setting is
    computed from them: adding and taking away in place would drift.
    """

    def __init__(self, model: PreTrainedModel, names: Mapping[str, str]) -> None:
        """Keep the pristine weights of `model`.

        `names` maps the parameters' in-memory names to the names that vectors use.
        """
        self.model = model
        self._names = dict(names)
        self._pristine = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters()
        }

    @property
    def pristine(self) -> Mapping[str, torch.Tensor]:
        """Return the weights of the base by their names in memory; nobody may change them."""
        return self._pristine

    def stored_name(self, name: str) -> str:
        """Return the name that checkpoint and vectors use for an in-memory parameter."""
        return self._names[name]

    def apply(self, terms: Sequence[tuple[float, TensorSource]]) -> None:
        """Set every parameter to the composition of `terms`, given in canonical order.

        Raises:
            VectorError: The sum is not finite; the model then has its pristine weights.
        """
        try:
            for name, parameter in self.model.named_parameters():
                parameter.data.copy_(self._compose(name, terms))
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Give every parameter its pristine value, bit for bit."""
        for name, parameter in self.model.named_parameters():
            parameter.data.copy_(self._pristine[name])

    def _compose(self, name: str, terms: Sequence[tuple[float, TensorSource]]) -> torch.Tensor:
        base = self._pristine[name]
        stored = self._names[name]
        parts = [
            (eta, vector.tensor(stored).to(base.device))
            for eta, vector in terms
            if stored in vector.names
        ]
        composed = compose_tensor(base, parts, base.dtype)
        require_finite(name, composed, base)
        return composed
