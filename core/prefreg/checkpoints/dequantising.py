"""A GGUF file becomes a folder that transformers loads, one tensor in memory at a time.

Configuration, tokenizer, names and the order of rows are transformers' own reading of the file;
the numbers are those that its `from_pretrained(gguf_file=…)` gives, bit for bit.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from prefreg.checkpoints.checkpoint import CONFIG_FILE, SINGLE_FILE
from prefreg.checkpoints.gguf_base import GGUFFile, GGUFTensor
from prefreg.checkpoints.safetensors_file import plan_file, write_at
from prefreg.errors import BaseModelError, listed, one_line
from prefreg.files import human_size
from prefreg.progress import tell

_HALVES = {"F16": ("F16", torch.float16), "BF16": ("BF16", torch.bfloat16)}
_WHOLE = ("F32", torch.float32)
_DIVISORS = "rope_freqs.weight"
_OTHERWISE = ("qwen35", "qwen35moe", "lfm2")
"""Architectures whose tensors newer transformers converts by rules of their own."""
_SMALL_FILES_BYTES = 64 << 20
"""Room for the tokenizer, which has tens of megabytes at most."""
_COPIES = 3
"""Of a tensor in float32, while it is unpacked, ordered and stored."""


def write_folder(found: GGUFFile, folder: Path) -> None:
    """Write configuration, tokenizer and weights of a GGUF file into an empty folder.

    Half floats stay as they are; all else is float32, which alone holds what was quantised
    exactly, and keeps what a vector adds to it: most of a small φ is below half a step of
    bfloat16, and would be rounded away when a composition is written.

    Raises:
        BaseModelError: The architecture, the tokenizer or a tensor cannot be read, or disk or
            memory are too small.
    """
    import gguf

    for kind, name in found.kinds.items():
        known = gguf.GGMLQuantizationType(kind)
        try:
            gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[known][1]), np.uint8), known)
        except NotImplementedError:
            raise BaseModelError(
                f"{found.path} holds tensors of the type {name}, which gguf cannot dequantise. "
                "Use a file of another quantisation."
            ) from None
    # Reading the vocabulary takes longer than unpacking a small model.
    tell(f"dequantising {found.path.name}", 0, sum(tensor.nbytes for tensor in found.tensors))
    model = _read_model(found)
    _write_tokenizer(found, folder, model.config.get_text_config().vocab_size)
    _write_weights(found, model, folder / SINGLE_FILE)
    (folder / CONFIG_FILE).write_text(_portable(model).to_json_string())
    licence = found.metadata.get("general.license")
    if isinstance(licence, str):
        (folder / "README.md").write_text(f"---\nlicense: {json.dumps(licence)}\n---\n")


@contextmanager
def _reading(found: GGUFFile, what: str) -> Iterator[None]:
    try:
        yield
    except BaseModelError:
        raise
    except Exception as error:  # whatever transformers makes of metadata
        raise BaseModelError(
            f"{what} of {found.path.name}, a {found.architecture!r} model, cannot be read by "
            f"transformers {transformers.__version__}: {one_line(str(error))}"
        ) from error


def _read_model(found: GGUFFile) -> PreTrainedModel:
    """Return the model without its numbers, on the device that holds none."""
    place, file = found.path.parent, found.path.name
    layers = found.metadata.get(f"{found.architecture}.block_count", 0)
    if not isinstance(layers, int) or layers > len(found.tensors):
        raise BaseModelError(
            f"{found.path} speaks of {layers!r} layers, and has {len(found.tensors)} tensors: it "
            "is damaged."
        )
    with _reading(found, "The architecture"):
        config = AutoConfig.from_pretrained(place, gguf_file=file, local_files_only=True)
        with torch.device("meta"):
            make: Any = AutoModelForCausalLM  # transformers' annotations of these leave much out
            model: PreTrainedModel = make.from_config(config)
    if found.architecture in _OTHERWISE:
        raise BaseModelError(
            f"{file} is a {found.architecture!r} model, which transformers reads by other rules. "
            "They are not followed yet: use the model's own folder."
        )
    read = getattr(model.config, "rope_parameters", None) or {}
    scaling = found.metadata.get(f"{found.architecture}.rope.scaling.type", "none")
    for tensor in found.tensors:
        if tensor.name == _DIVISORS:
            scaling = "by divisors"
            read = _llama3_rule(found, tensor, model.config)
    if scaling != "none" and read.get("rope_type", "default") == "default":
        raise BaseModelError(
            f"{file} stretches its positions ({scaling}), which transformers does not read from a "
            "GGUF file. Use the model's own folder."
        )
    return model


def _llama3_rule(found: GGUFFile, tensor: GGUFTensor, config: Any) -> dict[str, Any]:
    """Give a configuration the rule that the file has the results of; none if it is another one.

    Llama 3 divides the frequencies of its positions: the longest waves by a factor, short ones by
    1. The file holds the divisor of each, which transformers passes over.
    """
    with found.path.open("rb") as source:
        divisors = torch.from_numpy(np.copy(_numbers(tensor, source, found)))
    plain = dict(config.rope_parameters)
    rule = {
        **plain,
        "rope_type": "llama3",
        "factor": float(divisors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config.rope_parameters = rule
    divided, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    size = 2 * len(divided)
    whole = plain["rope_theta"] ** (-torch.arange(0, size, 2).double() / size)
    if len(divisors) == len(whole) and torch.allclose(
        whole / divisors.double(), divided.double(), rtol=1e-4, atol=0.0
    ):
        return rule
    config.rope_parameters = plain
    return plain


def _write_tokenizer(found: GGUFFile, folder: Path, rows: int) -> None:
    count = found.metadata.get("tokenizer.ggml.tokens")
    if count is None:
        raise BaseModelError(f"{found.path} holds no tokenizer, so no text can be put to it.")
    if count > rows:
        raise BaseModelError(
            f"{found.path} has {count} tokens and {rows} embeddings: it is damaged."
        )
    with _reading(found, "The tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            found.path.parent, gguf_file=found.path.name, local_files_only=True
        )
        tokenizer.save_pretrained(folder)
    # Special tokens of its own classes, which transformers adds where the file has none, would have
    # no embedding.
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    content["added_tokens"] = [each for each in content["added_tokens"] if each["id"] < count]
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2), "utf-8")


def _portable(model: PreTrainedModel) -> Any:
    """Return the configuration without the place that it was read from, and the file's name."""
    config = model.config
    config.name_or_path = ""
    vars(config).pop("_model_name_or_path", None)
    config.architectures = [type(model).__name__]
    config.dtype = torch.float32
    return config


def _write_weights(found: GGUFFile, model: PreTrainedModel, file: Path) -> None:
    make: Any = TENSOR_PROCESSORS.get(found.architecture, TensorProcessor)
    processor = make(config=model.config.to_dict())
    with _reading(found, "The tensors"):
        find: Any = get_gguf_hf_weights_map
        names: dict[str, str] = find(model, processor)
    shapes = _shapes(model)
    sources = _targets(found, names, shapes)
    dtypes = {
        target: _dtype(found, [each for each in _weights(found) if sources[each.name] == target])
        for target in shapes
    }
    plan = [(name, dtypes[name][0], shape) for name, shape in shapes.items()]
    header, specs = plan_file(plan, {"format": "pt"})
    _check_room(found, sum(spec.nbytes for spec in specs), file.parent)
    places = {spec.name: spec for spec in specs}
    left = Counter(sources.values())
    parsed: dict[str, dict[str, torch.Tensor]] = {"tensors": {}}
    done, total = 0, sum(tensor.nbytes for tensor in _weights(found))
    with file.open("xb") as stream, found.path.open("rb") as source:
        write_at(stream.fileno(), 0, header)
        for tensor in _weights(found):
            target = sources[tensor.name]
            made = processor.process(
                weights=_numbers(tensor, source, found),
                name=tensor.name,
                tensor_key_mapping=names,
                parsed_parameters=parsed,
            )
            if made.name is not None:
                parsed["tensors"][target] = torch.from_numpy(np.copy(made.weights))
            del made
            left[target] -= 1
            if not left[target]:
                weight = parsed["tensors"].pop(target).to(dtypes[target][1])
                if tuple(weight.shape) != shapes[target]:
                    raise BaseModelError(
                        f"{found.path}: {tensor.name!r} is {list(weight.shape)}, and the model has "
                        f"{list(shapes[target])} there. It is damaged or another architecture."
                    )
                data: Any = weight.contiguous().view(torch.uint8).numpy()
                write_at(stream.fileno(), places[target].offset, memoryview(data).cast("B"))
            done += tensor.nbytes
            tell(f"dequantising {found.path.name}", done, total)


def _weights(found: GGUFFile) -> list[GGUFTensor]:
    """Return the tensors that become weights: all but the divisors, which became a rule."""
    return [tensor for tensor in found.tensors if tensor.name != _DIVISORS]


def _shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all that a checkpoint holds, tied weights once."""
    saved = model.state_dict().keys()
    kept = {name: each for name, each in model.named_buffers() if name in saved}
    return {
        name: tuple(each.shape) for name, each in {**dict(model.named_parameters()), **kept}.items()
    }


def _targets(
    found: GGUFFile, names: Mapping[str, str], shapes: Mapping[str, object]
) -> dict[str, str]:
    """Return the weight that each tensor of the file becomes, or becomes a part of."""
    targets: dict[str, str] = {}
    for tensor in _weights(found):
        target = names.get(tensor.name) or names.get(tensor.name.removesuffix(".weight"))
        if target is not None and target in shapes:
            targets[tensor.name] = target
    strange = [tensor.name for tensor in _weights(found) if tensor.name not in targets]
    lacking = shapes.keys() - targets.values()
    if strange or lacking:
        said = f"has no place for {listed(strange)}" if strange else f"needs {listed(lacking)}"
        raise BaseModelError(
            f"{found.path}: what transformers {transformers.__version__} makes of it, a "
            f"{found.architecture!r} model, {said}, and would compute something else. Use the "
            "model's own folder."
        )
    return targets


def _dtype(found: GGUFFile, sources: list[GGUFTensor]) -> tuple[str, torch.dtype]:
    """Return the dtype that holds a weight exactly; what has one dimension is computed with."""
    kinds = {found.kinds[tensor.kind] for tensor in sources if len(tensor.shape) > 1}
    return _HALVES.get(kinds.pop(), _WHOLE) if len(kinds) == 1 else _WHOLE


def _numbers(tensor: GGUFTensor, source: Any, found: GGUFFile) -> Any:
    """Return the float32 numbers of a tensor."""
    import gguf

    kind = gguf.GGMLQuantizationType(tensor.kind)
    source.seek(tensor.offset)
    raw = np.frombuffer(source.read(tensor.nbytes), np.uint8)
    if raw.size != tensor.nbytes:
        raise BaseModelError(f"{found.path} has changed while it was read. Try again.")
    rows = gguf.quant_shape_to_byte_shape(tensor.shape, kind)
    numbers = gguf.dequantize(raw.reshape(rows), kind)
    if not np.isfinite(numbers).all():
        raise BaseModelError(f"{found.path}: {tensor.name!r} holds numbers that are not finite.")
    return numbers


def _check_room(found: GGUFFile, size: int, folder: Path) -> None:
    needed = size + _SMALL_FILES_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BaseModelError(
            f"{found.path.name} takes {human_size(needed)} once it is dequantised, and "
            f"{folder.parent} has {human_size(free)} free. PREFREG_CACHE names another place."
        )
    largest = max(found.tensors, key=lambda tensor: tensor.elements)
    needed = largest.nbytes + _COPIES * 4 * largest.elements
    free = psutil.virtual_memory().available
    if free < needed:
        raise BaseModelError(
            f"Dequantising {largest.name!r} of {found.path.name} takes {human_size(needed)} of "
            f"memory, and {human_size(free)} are free. Use a smaller model."
        )
