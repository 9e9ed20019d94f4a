"""Differences of trained weights that are added to the base: φ, φ₊, soups and poles of SFT."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product

from prefreg.data.tokens import TokenAnswer
from rivals.policies import Setting
from rivals.workshop import AXES, Axis, Weights, Workshop, repeated

SOUP_SHARES = tuple(place / 8 for place in range(9))


def difference(one: Weights, other: Weights) -> Weights:
    """Subtract weights."""
    return {name: one[name] - other[name] for name in one}


def on_grid(
    workshop: Workshop,
    method: str,
    phi: Mapping[Axis, Weights],
    scales: Sequence[float],
    **dials: float,
) -> Iterator[Setting]:
    """Yield every pair of coefficients but (0, 0), which is the base."""
    for etas in product(scales, repeat=2):
        if any(etas):
            terms = [(eta, phi[axis]) for eta, axis in zip(etas, AXES, strict=True)]
            shown: dict[str, float] = {**dials, AXES[0]: etas[0], AXES[1]: etas[1]}
            yield Setting(method, shown, partial(workshop.turned, terms))


def preference_vectors(workshop: Workshop, scales: Sequence[float]) -> Iterator[Setting]:
    """φ = θ₊ − θ₋ of both axes: four runs."""
    phi = {
        axis: difference(
            workshop.pole(axis, "positive").change, workshop.pole(axis, "negative").change
        )
        for axis in AXES
    }
    yield from on_grid(workshop, "preference vectors", phi, scales)


def positive_poles(workshop: Workshop, steps: int) -> dict[Axis, Weights]:
    """Return θ₊ − θ_base of both axes, as vectors have it or trained for longer."""
    if steps == workshop.steps:
        return {axis: workshop.pole(axis, "positive").change for axis in AXES}
    found = {}
    for axis in AXES:
        pairs = repeated(workshop.pairs(axis), steps * workshop.batch, workshop.seed)
        found[axis] = workshop.dpo(f"{axis} positive longer", pairs).change
    return found


def positive_only(
    workshop: Workshop, short: Sequence[float], longer: Sequence[float]
) -> Iterator[Setting]:
    """φ₊ = θ₊ − θ_base, of the vectors' own θ₊ and of those that also had θ₋'s steps."""
    for times, scales in ((1, short), (2, longer)):
        steps = times * workshop.steps
        phi = positive_poles(workshop, steps)
        yield from on_grid(workshop, "φ₊ only", phi, scales, steps=steps)


def reward_soup(workshop: Workshop, shares: Sequence[float] = SOUP_SHARES) -> Iterator[Setting]:
    """Weighted means of both θ₊ (Ramé et al. 2023), of those that `positive_only` has."""
    for times in (1, 2):
        steps = times * workshop.steps
        poles = positive_poles(workshop, steps)
        for share in shares:
            make = partial(workshop.turned, soup(poles, share))
            yield Setting("reward soup", {"steps": steps, "harmless": share}, make)


def soup(poles: Mapping[Axis, Weights], share: float) -> list[tuple[float, Weights]]:
    """Weigh θ₊ so that the weights sum to 1, `share` being that of harmless."""
    return [(1 - share, poles["helpful"]), (share, poles["harmless"])]


def contrastive_sft(workshop: Workshop, scales: Sequence[float]) -> Iterator[Setting]:
    """Fine-tuned on chosen answers minus fine-tuned on rejected ones.

    A step of DPO reads both answers, so each run has two steps for one of a pole of DPO.
    """
    phi: dict[Axis, Weights] = {}
    for axis in AXES:
        pairs = repeated(workshop.pairs(axis), 2 * workshop.steps * workshop.batch, workshop.seed)
        chosen = [TokenAnswer(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
        rejected = [TokenAnswer(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
        phi[axis] = difference(
            workshop.sft(f"{axis} sft chosen", chosen).change,
            workshop.sft(f"{axis} sft rejected", rejected).change,
        )
    yield from on_grid(workshop, "contrastive SFT", phi, scales)
