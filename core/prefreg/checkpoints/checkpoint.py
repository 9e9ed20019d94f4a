"""A transformers checkpoint on disk: its shards, its tensors, and the files beside them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from prefreg.checkpoints.safetensors_file import TensorSpec, read_header
from prefreg.errors import BaseModelError, PrefregError, listed
from prefreg.json_values import parse_json
from prefreg.values import read_small

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"

VOCABULARIES = (
    "vocab*",
    "target_vocab.json",
    "merges.txt",
    "added_tokens.json",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "*.tokenizer",
    "tekken.json",
    "bpe.codes",
    "dict.txt",
    "byte_maps.json",
    "emoji.json",
    "entity_vocab.json",
    "normalizer.json",
    "word_pronunciation.json",
    "word_shape.json",
)
"""Files beside `tokenizer*` that some tokenizer of transformers, or of Mistral, is made of."""

_COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    *VOCABULARIES,
    "special_tokens_map.json",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
)
_NAMING_CODE = (CONFIG_FILE, "tokenizer_config.json", "processor_config.json")
# transformers, other libraries before it, and MLX.
_QUANTISED = ("quantization_config", "compression_config", "quantization")
_AGAIN = "Fetch it again."
_MOST_BYTES = 1 << 28  # an index of a million tensors has some 100 MB
_MANY_LAYERS = 1000  # more than any model has, whatever its tensors are
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor and the file that holds it."""

    file: Path
    spec: TensorSpec


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that transformers can load, with the headers of its weights read and checked."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    """By on-disk name, in the order of shards and of the bytes in them."""
    shards: tuple[str, ...]
    """The names of the weight files, sorted."""
    indexed: bool
    """Whether an index file says which shard holds what."""
    config: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the configuration, the index and every header of a folder."""
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "does not exist"
            raise BaseModelError(f"{folder} {what}. Name the folder of a transformers checkpoint.")
        indexed = not (folder / SINGLE_FILE).is_file()
        if indexed and not (folder / INDEX_FILE).is_file():
            raise BaseModelError(_no_weights(folder))
        config = _read_json(folder / CONFIG_FILE)
        refuse_quantised(folder, config)
        weight_map = _read_index(folder / INDEX_FILE) if indexed else {}
        shards = tuple(sorted(set(weight_map.values()))) if indexed else (SINGLE_FILE,)
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise BaseModelError(
                f"{folder} lacks {listed(missing)}, which {INDEX_FILE} names. Fetch it again."
            )
        tensors = _gather(folder, shards, weight_map)
        _check_layers(folder, config, len(tensors))
        return cls(folder, tensors, shards, indexed, config)

    @property
    def tied(self) -> bool:
        """Whether the head may share its weights with the embeddings, as transformers defaults."""
        text = self.config.get("text_config")
        nested = text.get("tie_word_embeddings", True) if isinstance(text, dict) else True
        return bool(self.config.get("tie_word_embeddings", nested))


def refuse_quantised(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a model whose configuration says, of itself or a part, that it is quantised."""
    parts = (config, *(part for part in config.values() if isinstance(part, dict)))
    said = [part[key] for part in parts for key in _QUANTISED if part.get(key)]
    if not said:
        return
    method = said[0].get("quant_method") if isinstance(said[0], dict) else None
    raise BaseModelError(
        f"{folder} is a quantised model{f' ({method})' * bool(method)}: no difference can be taken "
        "from its weights, and none added to them. Use the unquantised model."
    )


def companions(folder: Path) -> tuple[Path, ...]:
    """Return the files, relative to a model's folder, that belong to it beside its weights.

    That is the tokenizer, its chat template, the generation defaults, and the Python files where
    a configuration names code of its own (`auto_map`), which is copied and never run. The
    configuration, licences, cards and other people's files are left out.
    """
    patterns = (*_COMPANIONS, "*.py") if _names_code(folder) else _COMPANIONS
    found = {
        path.relative_to(folder)
        for pattern in patterns
        for path in folder.glob(pattern)
        if path.is_file() and path.suffix != ".safetensors"
    }
    return tuple(sorted(found))


def read_companion(path: Path) -> bytes:
    """Read a small file of a model."""
    return read_small(path, BaseModelError, most=_MOST_BYTES)


def read_json_object(
    path: Path, *, absent: str, advice: str, error: type[PrefregError]
) -> dict[str, Any]:
    """Read a JSON object from a file; a failure says what its absence means, or the advice."""
    if not path.exists():
        raise error(f"{path.parent} has no {path.name}, so it is {absent}.")
    try:
        value = parse_json(read_small(path, error, most=_MOST_BYTES))
    except ValueError as failure:
        raise error(f"{path} is not JSON. {advice}") from failure
    if not isinstance(value, dict):
        raise error(f"{path} is not a JSON object. {advice}")
    return value


def _names_code(folder: Path) -> bool:
    return any(
        "auto_map" in read_json_object(path, absent="", advice=_AGAIN, error=BaseModelError)
        for path in (folder / name for name in _NAMING_CODE)
        if path.is_file()
    )


def _gather(
    folder: Path, shards: Iterable[str], weight_map: Mapping[str, str]
) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        for name, spec in read_header(folder / shard).tensors.items():
            if weight_map.get(name, shard) != shard:
                continue  # a copy in another shard than the index names: transformers reads that
            if name in tensors:
                raise BaseModelError(
                    f"{folder} holds {name!r} in two shards and its index in neither; "
                    "which one counts cannot be told. Save the model again."
                )
            tensors[name] = StoredTensor(folder / shard, spec)
    absent = weight_map.keys() - tensors.keys()
    if absent:
        raise BaseModelError(
            f"{folder / INDEX_FILE} names {listed(absent)}, which its shards lack. Fetch it again."
        )
    if not tensors:
        raise BaseModelError(f"{folder} holds weight files without a single tensor.")
    return tensors


def _check_layers(folder: Path, config: Mapping[str, Any], tensors: int) -> None:
    """Refuse layers without end: a model of them is built before its weights are looked for."""
    for part in (config, config.get("text_config")):
        layers = part.get("num_hidden_layers") if isinstance(part, dict) else None
        if isinstance(layers, int) and not 0 <= layers <= max(tensors, _MANY_LAYERS):
            raise BaseModelError(
                f"{folder / CONFIG_FILE} speaks of {layers} layers, and the weights are "
                f"{tensors} tensors. {_AGAIN}"
            )


def _read_index(path: Path) -> dict[str, str]:
    weight_map = _read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BaseModelError(f"{path} has no 'weight_map'. Fetch it again.")
    for shard in weight_map.values():
        # A plain name only: an index from a stranger must not make us read or write elsewhere.
        if (
            not isinstance(shard, str)
            or not shard.endswith(".safetensors")
            or not shard.isprintable()
            or "/" in shard
            or "\\" in shard
        ):
            raise BaseModelError(
                f"{path} names {shard!r} as a shard; a shard is a .safetensors file in the "
                "same folder. Do not trust this checkpoint."
            )
    return weight_map


def _read_json(path: Path) -> dict[str, Any]:
    return read_json_object(
        path,
        absent="not a transformers checkpoint",
        advice=_AGAIN,
        error=BaseModelError,
    )


def _no_weights(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return (
            f"{folder} holds a LoRA adapter, not a model. "
            "Name the folder of the model that it was trained on."
        )
    pickles = [path.name for pattern in _PICKLES for path in folder.glob(pattern)]
    if pickles:
        return (
            f"{folder} holds its weights as {listed(pickles)}; prefreg reads safetensors only. "
            "Convert it: load it with transformers and call save_pretrained."
        )
    if files := sorted(folder.glob("*.gguf")):
        return f"{folder} holds no weights but as GGUF. Name a file: {files[0]}"
    return f"{folder} holds no weights: neither {SINGLE_FILE} nor {INDEX_FILE} is there."
