"""A transformers checkpoint on disk: its shards, its tensors, and the files beside them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from prefreg.checkpoints.safetensors_file import TensorSpec, read_header
from prefreg.errors import BaseModelError, PrefregError, listed, unreadable

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"

_COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "preprocessor_config.json",
    "processor_config.json",
)
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
        weight_map = _read_index(folder / INDEX_FILE) if indexed else {}
        shards = tuple(sorted(set(weight_map.values()))) if indexed else (SINGLE_FILE,)
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise BaseModelError(
                f"{folder} lacks {listed(missing)}, which {INDEX_FILE} names. Fetch it again."
            )
        return cls(folder, _gather(folder, shards, weight_map), shards, indexed, config)

    @property
    def tied(self) -> bool:
        """Whether the head may share its weights with the embeddings, as transformers defaults."""
        text = self.config.get("text_config")
        nested = text.get("tie_word_embeddings", True) if isinstance(text, dict) else True
        return bool(self.config.get("tie_word_embeddings", nested))


def companions(folder: Path) -> tuple[Path, ...]:
    """Return the files, relative to a model's folder, that belong to it beside its weights.

    That is the tokenizer, its chat template and the generation defaults; the configuration,
    licences, cards and other people's files are left out.
    """
    found = {
        path.relative_to(folder)
        for pattern in _COMPANIONS
        for path in folder.glob(pattern)
        if path.is_file() and path.suffix != ".safetensors"
    }
    return tuple(sorted(found))


def read_companion(path: Path) -> bytes:
    """Read a small file of a model."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error, BaseModelError) from error


def read_json_object(
    path: Path, *, absent: str, advice: str, error: type[PrefregError]
) -> dict[str, Any]:
    """Read a JSON object from a file; a failure says what its absence means, or the advice."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path.parent} has no {path.name}, so it is {absent}.") from None
    except OSError as failure:
        raise unreadable(path, failure, error) from failure
    except (ValueError, RecursionError) as failure:
        raise error(f"{path} is not JSON. {advice}") from failure
    if not isinstance(value, dict):
        raise error(f"{path} is not a JSON object. {advice}")
    return value


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
        advice="Fetch it again.",
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
    return f"{folder} holds no weights: neither {SINGLE_FILE} nor {INDEX_FILE} is there."
