"""Between a model's weights in memory and the tensors of its checkpoint, by transformers' rules.

Most weights have one stored tensor of their own. Others are made of several, or of a part of one:
transformers fuses the experts of a mixture, and splits or turns the layers of some architectures.
Its operations of loading and saving do so here too, on whatever has the shape of weights.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from prefreg.checkpoints.bases import BaseModel
from prefreg.checkpoints.checkpoint import Checkpoint
from prefreg.checkpoints.tensor_names import describe_mismatch, weight_shapes
from prefreg.config import cache_folder
from prefreg.errors import BaseModelError, listed, one_line
from prefreg.files import write_whole

Tensors = dict[str, torch.Tensor]
_THIN = 16
"""Rows or columns that operations of saving can halve and turn as they do more of them."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A stored matrix that is a part of a stack of matrices in memory, such as of experts."""

    rows: torch.Tensor
    """Where its rows are among those of the whole stack, one matrix below the other."""
    columns: torch.Tensor
    """Where its columns are among those of the whole stack, one matrix beside the other."""
    turned: bool
    """Whether it is stored transposed, so that its rows are columns of the stack."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """Weights in memory that loading makes of stored tensors by operations of transformers."""

    model: PreTrainedModel
    converter: WeightConverter
    target: str
    """The name that the stored ones get in memory."""
    stored: Mapping[str, str]
    """The pattern of the converter that each stored tensor matches, by its name on disk."""
    restored: Mapping[str, str]
    """The names on disk, by those that the operations of saving give."""
    weights: tuple[str, ...] = ()
    """The names in memory."""

    def load(self, stored: Mapping[str, torch.Tensor]) -> Tensors:
        """Make the weights of all the stored tensors, as loading does."""
        parts = [(name, pattern, stored[name]) for name, pattern in self.stored.items()]
        return self._convert(self.converter, self.target, parts)

    def store(self, weights: Mapping[str, torch.Tensor]) -> Tensors:
        """Take the weights apart into the stored tensors, as saving does."""
        back = self.converter.reverse_transform()
        named = [(name, *back.rename_source_key(name)) for name in weights]
        parts = [(name, pattern, weights[name]) for name, _, pattern in named]
        found = self._convert(back, named[0][1], parts)
        return {self.restored.get(name, name): tensor for name, tensor in found.items()}

    def matrices(self, shape: Sequence[int]) -> dict[str, Matrix] | None:
        """Find which rows and columns of a stack each stored tensor is made of.

        `shape` is that of the one weight, (matrices, rows, columns). None where the operations
        of saving do more than to pick some.
        """
        count, rows, columns = shape
        if len(self.weights) != 1:
            return None
        # The places themselves are taken apart, as the numbers would be; the other side, where
        # all are equal, may be thin, as no operation mixes both.
        down = torch.arange(count * rows, dtype=torch.int32).view(count, rows, 1)
        across = torch.arange(count * columns, dtype=torch.int32).view(count, 1, columns)
        lines = self.store({self.weights[0]: down.expand(-1, -1, min(_THIN, columns))})
        others = self.store({self.weights[0]: across.expand(-1, min(_THIN, rows), -1)})
        outlines = self.store({self.weights[0]: torch.empty(*shape, device="meta")})
        found = {}
        for name, line in lines.items():
            other = others[name]
            if line.ndim != 2:
                return None
            turned = not torch.equal(line, line[:, :1].expand_as(line))
            if turned:
                line, other = line.T, other.T
            found[name] = Matrix(line[:, 0].clone().long(), other[0].clone().long(), turned)
            sides = (line.shape[0], other.shape[1])
            if (sides[::-1] if turned else sides) != tuple(outlines[name].shape):
                return None
            same = torch.equal(line, line[:, :1].expand_as(line))
            if not same or not torch.equal(other, other[:1].expand_as(other)):
                return None
        return found

    def _convert(
        self, converter: Any, target: str, parts: Iterable[tuple[str, str | None, torch.Tensor]]
    ) -> Tensors:
        own = deepcopy(converter)  # it collects what it is given
        for name, pattern, tensor in parts:
            own.add_tensor(target, name, pattern, tensor)
        found = own.convert(target, model=self.model, config=self.model.config)
        return {
            name: tensor[0] if isinstance(tensor, list) else tensor
            for name, tensor in found.items()
        }


@dataclass(frozen=True, slots=True)
class Conversion:
    """How the weights of a model lie on disk."""

    names: Mapping[str, str] = field(default_factory=dict)
    """The stored name of every weight that has a stored tensor of its own."""
    fusions: Sequence[Fusion] = ()
    """What the others are made of."""

    @property
    def fused(self) -> set[str]:
        """Return the names in memory of weights that have no stored tensor of their own."""
        return {name for fusion in self.fusions for name in fusion.weights}

    @property
    def stored(self) -> set[str]:
        """Return the names on disk of all that the model holds."""
        return {*self.names.values(), *(name for each in self.fusions for name in each.stored)}

    def weights(self, model: PreTrainedModel) -> Tensors:
        """Return what a checkpoint sets in a model: its parameters and its saved buffers."""
        saved = self.names.keys() | self.fused
        buffers = {name: each for name, each in model.named_buffers() if name in saved}
        return {name: each.data for name, each in model.named_parameters()} | buffers

    def store(self, weights: Mapping[str, torch.Tensor]) -> Tensors:
        """Turn weights by their names in memory into tensors by their names on disk."""
        found = {self.names[name]: weights[name] for name in weights if name in self.names}
        for fusion in self.fusions:
            if any(name in weights for name in fusion.weights):
                found |= fusion.store({name: weights[name] for name in fusion.weights})
        return found


def find_conversion(
    model: PreTrainedModel, checkpoint: Checkpoint, *, whole: bool = True
) -> Conversion:
    """Find how the weights of a model, tied ones once, lie in its checkpoint.

    With `whole` it is an error where a parameter is made of nothing stored, or cannot be taken
    apart again; else such ones are left out.
    """
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    state, prefix = model.state_dict(), model.base_model_prefix
    stored = weight_shapes(checkpoint)
    names: dict[str, str] = {}
    collected: dict[str, dict[str, str]] = defaultdict(dict)
    unexpected, reshaped = [], []
    # What transformers leaves aside in loading, such as heads that guess more tokens.
    passed_over = model._keys_to_ignore_on_load_unexpected or ()
    # Of a model for images too, only the text part may be loaded.
    part = model.config.model_type != checkpoint.config.get("model_type")
    for each in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(each, renamings, converters, prefix, state)
        if name not in state and each in state:
            name, pattern = each, None
        if name not in state:
            if not part and not any(re.search(ignored, name) for ignored in passed_over):
                unexpected.append(each)
        elif name in names:
            unexpected.append(each)
        elif pattern is not None:
            collected[name][each] = pattern
        elif tuple(state[name].shape) == stored[each]:
            names[name] = each
        else:
            reshaped.append(f"{name} {list(state[name].shape)} against {list(stored[each])}")
    fusions = []
    for name, patterns in collected.items():
        used = next(iter(patterns.values()))
        converter = next(each for each in converters if used in each.source_patterns)
        restored = {}
        for each in patterns:
            inner, _ = rename_source_key(each, renamings, [])
            renamed, _ = converter.rename_source_key(inner)
            restored[_prefixed_as(name, renamed, inner, prefix)] = each
        fusion = Fusion(model, converter, name, patterns, restored)
        try:
            fusions.append(replace(fusion, weights=_outline(fusion, stored, state)))
        except Exception as error:  # whatever an operation raises
            if whole:
                raise BaseModelError(
                    f"The weights {name} cannot be taken apart again as {checkpoint.path} stores "
                    f"them: {one_line(str(error))}"
                ) from error
    _follow_ties(model, names)
    known = names.keys() | {name for fusion in fusions for name in fusion.weights}
    missing = [name for name, _ in model.named_parameters() if name not in known]
    if whole and (missing or unexpected or reshaped):
        raise BaseModelError(describe_mismatch(checkpoint, missing, unexpected, reshaped))
    return Conversion(names, fusions)


def open_conversion(
    model: PreTrainedModel, base: BaseModel, *, whole: bool = True, loaded: bool = True
) -> Conversion:
    """Find how the weights of a model lie in its base, and that they come back bit for bit.

    That loading gave a model what is stored is checked, too, where it has just been `loaded`.
    Both are checked once for every base.
    """
    found = find_conversion(model, base.checkpoint, whole=whole)
    if not (loaded or found.fusions):
        return found
    done = cache_folder() / "conversions" / f"{base.fingerprint.weights}.json"
    versions = {"transformers": transformers.__version__, "model": type(model).__name__}
    checked = {**versions, "loaded": loaded}
    with suppress(OSError, ValueError):
        if json.loads(done.read_text()) in (checked, {**versions, "loaded": True}):
            return found
    if loaded:
        _require_loaded(found, model, base.checkpoint)
    for fusion in found.fusions:
        _require_round_trip(fusion, base.checkpoint)
    with suppress(OSError):  # checked again next time
        done.parent.mkdir(parents=True, exist_ok=True)
        write_whole(done, json.dumps(checked))
    return found


def read_stored(names: Iterable[str], checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """Read stored tensors one by one, each in its own dtype."""
    files: dict[Path, list[str]] = defaultdict(list)
    for name in names:
        files[checkpoint.tensors[name].file].append(name)
    for file, held in files.items():
        with safe_open(file, "pt") as stream:
            for name in held:
                yield name, stream.get_tensor(name)


def _require_loaded(conversion: Conversion, model: PreTrainedModel, base: Checkpoint) -> None:
    """Refuse weights that loading changes, such as rows that it empties."""
    weights = conversion.weights(model)
    held = {stored: name for name, stored in conversion.names.items() if name in weights}
    changed = [
        stored
        for stored, tensor in read_stored(held, base)
        if not _same_bits(tensor.to((now := weights[held[stored]]).dtype), now.cpu())
    ]
    if changed:
        raise BaseModelError(
            f"transformers {transformers.__version__} does not load what {base.path} stores as "
            f"{listed(changed)}: a {type(model).__name__} changes it in loading. No vector can be "
            "exact there; write those weights as it loads them (from_pretrained, then "
            "save_pretrained), and use that folder as the base."
        )


def _require_round_trip(fusion: Fusion, checkpoint: Checkpoint) -> None:
    stored = dict(read_stored(fusion.stored, checkpoint))
    back = fusion.store(fusion.load(stored))
    if changed := [name for name in stored if not _same_bits(stored[name], back[name])]:
        raise BaseModelError(
            f"transformers loads {listed(changed)} of {checkpoint.path} in a way that it does not "
            "take back exactly."
        )


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return torch.equal(*(each.contiguous().flatten().view(torch.uint8) for each in (one, other)))


def _outline(
    fusion: Fusion, shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, torch.Tensor]
) -> tuple[str, ...]:
    """Go from disk to memory and back without numbers, and return the names in memory."""
    empty = {name: torch.empty(shapes[name], device="meta") for name in fusion.stored}
    made = fusion.load(empty)
    other = [name for name in made if name not in state or made[name].shape != state[name].shape]
    if other:
        raise ValueError(f"{listed(other)} would be of another shape")
    back = {name: tuple(tensor.shape) for name, tensor in fusion.store(made).items()}
    if back != {name: shapes[name] for name in fusion.stored}:
        raise ValueError(f"saving would write {listed(back)} for {listed(fusion.stored)}")
    return tuple(made)


def _prefixed_as(target: str, renamed: str, bare: str, prefix: str) -> str:
    """Add or take the prefix of the bare model, as it was between `renamed` and `target`."""
    if target == f"{prefix}.{renamed}":
        return f"{prefix}.{bare}"
    return bare.removeprefix(f"{prefix}.") if renamed == f"{prefix}.{target}" else bare


def _follow_ties(model: PreTrainedModel, names: dict[str, str]) -> None:
    """Name every parameter as `named_parameters` does, where another of its names is stored."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name != first[id(parameter)] and name in names:
            names.setdefault(first[id(parameter)], names.pop(name))
