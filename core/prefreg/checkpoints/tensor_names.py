"""One conversion between a model's parameter names in memory and the names on disk."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping

from prefreg.checkpoints.checkpoint import Checkpoint, StoredTensor
from prefreg.checkpoints.safetensors_file import read_into
from prefreg.errors import BaseModelError, listed, unreadable
from prefreg.files import hash_bytes

TRAINABLE_DTYPES = ("F64", "F32", "F16", "BF16")
"""The dtypes a weight can be stored in and still be trained; others are buffers or quantised."""

# Buffers that old checkpoints of GPT-2, GPT-J and GPT-NeoX stored among their weights.
_BUFFER = re.compile(r"(^|\.)(attn|attention)\.(bias|masked_bias)$|(^|\.)rotary_emb\.inv_freq$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output_projection)\.weight$")
_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)\.weight$"
)
_COMPARED_BYTES = 1 << 20
_OTHER_MODEL = (
    "This is another model, or its architecture stores other tensors than it trains; it is not "
    "supported yet."
)
_OTHER_BASE = "Use the base that these weights were trained from."
_NARROW = ("F8_", "F6_", "F4")
_INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")


def is_weight(tensor: StoredTensor) -> bool:
    """Whether a stored tensor is one that training could have moved."""
    return tensor.spec.dtype in TRAINABLE_DTYPES and not _BUFFER.search(tensor.spec.name)


def tied_copies(checkpoint: Checkpoint) -> dict[str, str]:
    """Map every stored copy of tied embeddings to the name that stands for both.

    Some checkpoints carry `lm_head.weight` although it is tied. It counts as a copy only while
    its bytes are those of the embeddings; otherwise transformers keeps the two apart.
    """
    if not checkpoint.tied:
        return {}
    tensors = checkpoint.tensors
    named = [name for name in tensors if _HEAD.search(name) or _EMBEDDING.search(name)]
    # Of one shape, then block by block of the same bytes: each is read once, however many.
    alike = _grouped(((tensors[name].spec.dtype, tensors[name].spec.shape), name) for name in named)
    waiting = [(0, names) for names in alike]
    copies: dict[str, str] = {}
    while waiting:
        start, names = waiting.pop()
        heads = [name for name in names if _HEAD.search(name)]
        embeddings = [name for name in names if not _HEAD.search(name)]
        if not heads or not embeddings:
            continue
        if start >= tensors[names[0]].spec.nbytes:
            copies |= dict.fromkeys(heads, embeddings[-1])
            continue
        alike = _grouped((_hash_block(tensors[name], start), name) for name in names)
        waiting += [(start + _COMPARED_BYTES, names) for names in alike]
    return copies


def _grouped(keyed: Iterable[tuple[Hashable, str]]) -> list[list[str]]:
    """Return the names of each key."""
    found: dict[Hashable, list[str]] = defaultdict(list)
    for key, name in keyed:
        found[key].append(name)
    return list(found.values())


def weight_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Return the shape of every trainable weight, each tied weight once."""
    copies = tied_copies(checkpoint)
    return {
        name: tensor.spec.shape
        for name, tensor in checkpoint.tensors.items()
        if is_weight(tensor) and name not in copies
    }


def on_disk_names(
    parameter_names: Mapping[str, tuple[int, ...]],
    prefix: str,
    checkpoint: Checkpoint,
    *,
    advice: str = _OTHER_MODEL,
) -> dict[str, str]:
    """Map the names of a model's `named_parameters()` to those of its checkpoint.

    `prefix` is the model's `base_model_prefix`, which checkpoints of the bare model lack (GPT-2)
    and checkpoints of the full model have. Every weight on disk and every parameter must find
    its partner of the same shape.
    """
    shapes = weight_shapes(checkpoint)
    names: dict[str, str] = {}
    for name in parameter_names:
        candidates = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
        names[name] = next((known for known in candidates if known in shapes), name)
    missing = [name for name, stored in names.items() if stored not in shapes]
    unexpected = shapes.keys() - names.values()
    other = [
        f"{name} {list(shape)} against {list(shapes[names[name]])}"
        for name, shape in parameter_names.items()
        if names[name] in shapes and shapes[names[name]] != tuple(shape)
    ]
    if missing or unexpected or other or len(set(names.values())) != len(names):
        raise BaseModelError(
            describe_mismatch(checkpoint, missing, unexpected, other, advice=advice)
        )
    return names


def match_pole(pole: Checkpoint, base: Checkpoint) -> dict[str, str]:
    """Map the weights of a base to those of a model that was trained from it and saved.

    Saving through transformers may add or drop the prefix of the bare model's names, and drops
    copies of tied weights.
    """
    for each in (pole, base):
        _refuse_quantised(each)
    theirs = weight_shapes(pole)
    try:
        found = on_disk_names(theirs, _prefix(theirs, base), base, advice=_OTHER_BASE)
    except BaseModelError as error:
        raise BaseModelError(f"{pole.path} was not trained from {base.path}: {error}") from None
    return {stored: name for name, stored in found.items()}


def _prefix(names: Iterable[str], base: Checkpoint) -> str:
    """Return the part by which names differ from those of a base; no other would match."""
    strange = next((name for name in names if name not in base.tensors), "")
    first, _, rest = strange.partition(".")
    if rest in base.tensors:
        return first
    longer = (name.partition(".") for name in base.tensors)
    return next((first for first, _, rest in longer if rest == strange), first)


def _refuse_quantised(checkpoint: Checkpoint) -> None:
    """Refuse weights that no configuration calls quantised: a difference would leave them out."""
    found = [
        name
        for name, tensor in checkpoint.tensors.items()
        if tensor.spec.dtype.startswith(_NARROW)
        or (name.endswith("weight") and tensor.spec.dtype in _INTEGERS)
    ]
    if found:
        raise BaseModelError(
            f"{checkpoint.path} holds quantised weights: {listed(found)}. No difference can be "
            "taken from them. Use the unquantised model."
        )


def _hash_block(tensor: StoredTensor, start: int) -> str:
    """Hash the bytes of a tensor from `start` on, as many as are compared at a time."""
    block = bytearray(min(_COMPARED_BYTES, tensor.spec.nbytes - start))
    try:
        with tensor.file.open("rb") as stream:
            read_into(stream.fileno(), tensor.spec.offset + start, memoryview(block))
    except (OSError, EOFError) as error:
        raise unreadable(tensor.file, error, BaseModelError) from error
    return hash_bytes(bytes(block))


def describe_mismatch(
    checkpoint: Checkpoint,
    missing: Iterable[str],
    unexpected: Iterable[str],
    other: Iterable[str],
    *,
    advice: str = _OTHER_MODEL,
) -> str:
    """Say which weights of a checkpoint are not those of a model, by both their names."""
    parts = [
        f"{what} {listed(names)}"
        for what, names in (
            ("it lacks", missing),
            ("it alone has", unexpected),
            ("of another shape are", other),
        )
        if names
    ]
    details = "; ".join(parts) or "two parameters share one stored name"
    return f"The weights in {checkpoint.path} are not those of this model: {details}. {advice}"
