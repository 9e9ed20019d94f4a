"""Composing a model in memory, for an answer at once."""

import torch

from prefreg.composition.engine import add_up, require_finite
from prefreg.composition.layout import output_dtype
from prefreg.composition.plan import Plan, opened
from prefreg.vectors.elements import parse_dtype
from prefreg.vectors.tensors import TORCH_DTYPES, read_tensor


def compose_state(plan: Plan, *, dtype: str | None = None) -> dict[str, torch.Tensor]:
    """Return every tensor of a composition by its on-disk name, in `dtype` or the base's own.

    Raises:
        VectorError: A vector is damaged, does not fit, or overflows.
        BaseModelError: The base is damaged.
        UsageError: The dtype is malformed.
    """
    wanted = parse_dtype(dtype) if dtype else None
    state = {}
    with opened(plan) as open_plan:
        for name, stored in plan.base.checkpoint.tensors.items():
            terms = open_plan.terms_of(stored)
            base = read_tensor(stored)
            addends: list[torch.Tensor] = []
            if terms:
                phis = [term.block(0, stored.spec.elements) for term in terms]
                combine = open_plan.combine(stored, terms)
                addends = [part.reshape(base.shape) for part in combine(0, phis)]
            state[name] = add_up(base, addends, TORCH_DTYPES[output_dtype(stored, wanted)])
            if terms:
                require_finite(name, state[name], base)
    return state
