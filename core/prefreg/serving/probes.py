"""Trials of a loaded model: whether answers can be stepped together, each with its own dials.

A kind of model may keep more than keys and values, make its own masks, or use weights in another
way than by a layer's product. Where a trial does not give what the model itself computes, the way
that needs it is not taken; nothing but speed depends on it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call

from prefreg.serving.batches import ApartBatch, Batch, Passes, Stream, WholeBatch
from prefreg.serving.row_dials import Carried
from prefreg.vectors.lowrank import Factors

_LENGTHS = (5, 11, 3)
"""Tokens of the prompts; the last joins while the others go on."""
_ETAS = (0.75, -0.5, 0.0)
_STEPS = 2
"""Before the last joins, and after."""
_TOLERANCE, _COARSE = 1e-3, 3e-2
"""Of the largest logit, in float32 and in 16 bits; what a wrong mask or a lost η does is more."""
_SIZE = 0.3
"""Of the changes that are tried, relative to the weights."""


Kind = type[Batch[Any]]


def find_kind(passes: Passes) -> Kind:
    """Return the quickest kind of batch in which rows get the logits that each gets by itself."""
    kinds: tuple[Kind, ...] = (Batch, ApartBatch)
    return next((kind for kind in kinds if _works(passes, kind, {})), WholeBatch)


def carries_rows(passes: Passes, kind: Kind) -> bool:
    """Try whether rows with different η get the logits of weights that are composed with them.

    Layers whose weights the model uses in another way than by calling them are left out.
    """
    passes.dials.limit(_called_once(passes))
    changes = _changes(passes)
    return bool(changes) and _works(passes, kind, changes)


@dataclass(frozen=True, slots=True)
class _Change:
    """Factors of some weights, by their stored names."""

    held: Mapping[str, Factors]

    @property
    def names(self) -> Sequence[str]:
        return tuple(self.held)

    def factors(self, name: str) -> Factors:
        return self.held[name]


def _works(passes: Passes, kind: Kind, changes: Mapping[str, Factors]) -> bool:
    try:
        with torch.inference_mode():
            return _agrees(passes, kind(passes), changes)
    except Exception:  # whatever an unknown kind of model raises
        return False
    finally:
        passes.dials.use(None)


def _called_once(passes: Passes) -> set[str]:
    """Return the stored names of the layers that are called once in a pass."""
    calls = Counter[str]()

    def note(name: str) -> Any:
        return lambda *_: calls.update([name])

    layers = passes.dials.layers.items()
    handles = [each.module.register_forward_hook(note(name)) for name, each in layers]
    try:
        with torch.inference_mode():
            passes.run(torch.tensor([[0, 1, 2]]), None, every=True)
    finally:
        for handle in handles:
            handle.remove()
    return {name for name, count in calls.items() if count == 1}


def _changes(passes: Passes) -> dict[str, Factors]:
    """Make random factors for the first and the last layer of each kind."""
    kinds: dict[str, list[str]] = {}
    for name in passes.dials.layers:
        kinds.setdefault(re.sub(r"\d+", "N", name), []).append(name)
    generator = torch.Generator().manual_seed(0)
    found = {}
    for names in kinds.values():
        for name in dict.fromkeys((names[0], names[-1])):
            weight = passes.dials.layers[name].module.weight.detach()
            rows, columns = weight.shape
            b = torch.randn(rows, 2, generator=generator)
            a = torch.randn(2, columns, generator=generator)
            size = _SIZE * float(weight.float().norm()) / float((b @ a).norm())
            found[name] = Factors(b, a * size)
    return found


def _agrees(passes: Passes, batch: Batch[Stream], changes: Mapping[str, Factors]) -> bool:
    generator = torch.Generator().manual_seed(1)
    embeddings: Any = passes.model.get_input_embeddings()
    change = _Change(changes)
    streams = []
    for length, eta in zip(_LENGTHS, _ETAS, strict=True):
        prompt = torch.randint(len(embeddings.weight), (length,), generator=generator).tolist()
        carried = (Carried("tried", change, eta),) if changes else ()
        streams.append(Stream(prompt=tuple(prompt), carried=carried))
    written = [list(stream.prompt) for stream in streams]
    for at, stream in enumerate(streams):
        batch.enter(stream)
        logits = batch.read(stream, stream.prompt, every=False)[-1]
        stream.read = len(stream.prompt)
        if not _take(passes, stream, written[at], logits, changes, _ETAS[at]):
            return False
        for _ in range(_STEPS if at else 0):
            going = batch.rows
            for each, row in zip(going, batch.step(going), strict=True):
                each.read += 1
                place = streams.index(each)
                if not _take(passes, each, written[place], row, changes, _ETAS[place]):
                    return False
    return True


def _take(
    passes: Passes,
    stream: Stream,
    written: list[int],
    logits: torch.Tensor,
    changes: Mapping[str, Factors],
    eta: float,
) -> bool:
    """Compare logits with those of composed weights, which read all anew, and go on greedily."""
    layers = passes.dials.layers
    composed = {
        f"{layers[name].name}.weight": (
            (weight := layers[name].module.weight).float()
            + eta * (factors.b @ factors.a).to(weight.device)
        ).to(weight.dtype)
        for name, factors in changes.items()
    }
    passes.dials.use(None)
    ids = torch.tensor([written], device=passes.model.device)
    asked = {"input_ids": ids, "use_cache": False}
    wanted = functional_call(passes.model, composed, kwargs=asked).logits[0, -1].float()
    stream.last = int(wanted.argmax())
    written.append(stream.last)
    most = _TOLERANCE if passes.model.dtype.itemsize >= 4 else _COARSE
    return bool((logits.float() - wanted).abs().max() <= most * wanted.abs().max())
