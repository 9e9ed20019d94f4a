"""What is to be done to one weight."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from prefreg.composition.layout import OutputTensor
from prefreg.composition.plan import TensorTerm
from prefreg.errors import BaseModelError
from prefreg.methods import Combine
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.elements import unreadable

PLAIN = {"BF16": 2, "F32": 4}
"""The dtypes that are added up without torch, and the bytes of a number."""


@dataclass(frozen=True, slots=True)
class WeightWork:
    """A weight of the output, and what is added to the base's."""

    tensor: OutputTensor
    terms: Sequence[TensorTerm]
    combine: Future[Combine] | None
    """What the method adds to a block; None for the plain sum."""

    @property
    def name(self) -> str:
        """The name of the weight on disk."""
        return self.tensor.stored.spec.name

    @property
    def is_copy(self) -> bool:
        """Whether the base's bytes are the output's."""
        return not self.terms and self.tensor.dtype == self.tensor.stored.spec.dtype

    @property
    def is_plain(self) -> bool:
        """Whether it is the plain sum of dense vectors, all in the two usual dtypes."""
        dtypes = {self.tensor.stored.spec.dtype, self.tensor.dtype}
        for term in self.terms:
            if not isinstance(term.vector, DenseVector):
                return False
            dtypes.add(term.vector.dtype)
        return bool(self.terms) and self.combine is None and dtypes <= PLAIN.keys()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Name the base's file where it cannot be read.

        Raises:
            BaseModelError: It cannot.
        """
        try:
            yield
        except (OSError, EOFError) as error:
            raise unreadable(self.tensor.stored.file, error, BaseModelError) from error
