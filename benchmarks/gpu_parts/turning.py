"""All dials changed on models in bfloat16, beside the time that the memory needs for the bytes.

The floor reads the pristine weights and every vector and writes the weights, once each, at the
speed of a copy that is measured beside it.
"""

from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from gpu_parts.inputs import DEVICE, free, make_model, seconds, write_phi
from prefreg.composition.engine import compose_tensor
from prefreg.composition.in_memory import Dials, ScaledVector
from prefreg.models.conversion import Conversion
from prefreg.vectors import open_vector

ETAS = (1.0, 0.5, -0.3)
TURNS = 5
BAR = 1.3


def measure(record: Any, part: str, folder: Path, *, small: bool) -> None:
    """Turn the dials of each shape."""
    bandwidth = copy_speed(1 << 22 if small else 1 << 31)
    record.add("copy", bytes_a_second=bandwidth)
    for shape in ["small"] if small else ["Llama-3.2-3B", "Llama-3.1-8B"]:
        place = folder / shape
        place.mkdir()
        turn_all(record, shape, place, bandwidth)
        free()


def _version(place: int) -> Any:
    """Stand for the record of a version, of which dials read no more."""
    return SimpleNamespace(axis=f"axis{place}", number=1, sha256=str(place))


def copy_speed(size: int) -> float:
    """Return the bytes that a copy reads and writes in a second."""
    source = torch.zeros(size, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size / min(seconds(lambda: target.copy_(source)) for _ in range(TURNS))


def turn_all(record: Any, shape: str, folder: Path, bandwidth: float) -> None:
    """Turn every dial of one model, first with the vectors on the disk, then again and again."""
    model = make_model(shape, torch.bfloat16)
    size = sum(parameter.numel() for parameter in model.parameters())
    etas = ETAS
    if DEVICE == "cuda":
        # A card of 80 GB holds a model of 8 B with its pristine weights and two vectors.
        room = torch.cuda.get_device_properties(0).total_memory * 0.9
        etas = ETAS[: int(room / (2 * size)) - 2]
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    file = write_phi(shapes, folder / "phi.safetensors", 1)
    record.say(f"{shape}: {size:,} parameters, a vector of {file.stat().st_size:,} bytes")
    # One file opened several times is as many vectors to whoever reads it.
    terms = [
        ScaledVector(_version(place), eta, open_vector(file)) for place, eta in enumerate(etas)
    ]
    dials = Dials(model, Conversion({name: name for name, _ in model.named_parameters()}))
    first = seconds(lambda: dials.turn(terms))
    turns = [seconds(lambda: dials.turn(terms)) for _ in range(TURNS)]
    floor = 2 * size * (len(terms) + 2) / bandwidth
    record.add(
        "dials",
        shape=shape,
        parameters=size,
        vectors=len(terms),
        first_seconds=first,
        seconds=median(turns),
        floor_seconds=floor,
        of_floor=median(turns) / floor,
        bar=BAR,
        restore_seconds=seconds(dials.restore),
        peak_bytes=torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None,
    )
    dials.turn(terms)
    wrong = [name for name in some_names(model) if not same_bits(dials, name, terms)]
    record.add("bits", shape=shape, compared=some_names(model), wrong=wrong)
    for term in terms:
        term.vector.close()
    if wrong:
        raise AssertionError(f"not what a composition writes: {', '.join(wrong)}")


def some_names(model: Any) -> list[str]:
    """Choose weights of every kind: of the first layer, the last one and outside of both."""
    names = [name for name, _ in model.named_parameters()]
    return [names[0], *names[1:10], names[-2], names[-1]]


def same_bits(dials: Dials, name: str, terms: list[ScaledVector]) -> bool:
    """Tell whether a weight is what a composition on the CPU writes, bit for bit."""
    found = dials.model.get_parameter(name).detach().cpu()
    parts = [(term.eta, term.vector.tensor(name)) for term in terms]
    expected = compose_tensor(dials.pristine[name].cpu(), parts, found.dtype)
    return torch.equal(found.view(torch.int16), expected.view(torch.int16))
