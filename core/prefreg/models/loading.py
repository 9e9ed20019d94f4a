"""Load a base from disk: without remote code, without chatter."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.utils import logging as transformers_logging

from prefreg.checkpoints.bases import BaseModel
from prefreg.checkpoints.checkpoint import Checkpoint
from prefreg.checkpoints.tensor_names import describe_mismatch, weight_shapes
from prefreg.errors import BaseModelError, one_line


class Located(Protocol):
    """A model that has a name, and a folder with its configuration and tokenizer."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def path(self) -> Path:
        """Its folder."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' log lines and progress bars off the terminal."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_tokenizer(base: Located) -> PreTrainedTokenizerBase:
    """Load the base's tokenizer."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            base.path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise BaseModelError(
            f"The tokenizer of {base.name} cannot be loaded: {one_line(str(error))}"
        ) from error
    return tokenizer


def load_model(
    base: BaseModel, dtype: torch.dtype | Literal["auto"] = torch.float32
) -> PreTrainedModel:
    """Load the base's weights: in float32, the precision of training, or in their own (`auto`)."""
    # With `output_loading_info` a pair is returned, which the annotations do not tell.
    loader: Any = AutoModelForCausalLM
    try:
        model, info = loader.from_pretrained(
            base.path,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise BaseModelError(
            f"The model of {base.name} cannot be loaded: {one_line(str(error))}"
        ) from error
    if lacking := sorted(info["missing_keys"]):
        raise BaseModelError(
            f"{base.path} lacks weights of a {type(model).__name__}: {', '.join(lacking[:5])}"
            f"{' …' if len(lacking) > 5 else ''}. Use a checkpoint of a causal language model."
        )
    return with_sound_defaults(model)


def with_sound_defaults(model: PreTrainedModel) -> PreTrainedModel:
    """Reduce generation defaults that transformers reads but refuses to save, as it then must.

    Those are of sampling without sampling and the like; the tokens that end an answer stay.
    """
    make: Any = GenerationConfig  # its constructor carries no types
    defaults: Any = model.generation_config
    try:
        defaults.validate(strict=True)
    except ValueError:
        ends = ("bos_token_id", "eos_token_id", "pad_token_id")
        model.generation_config = make(**{name: getattr(defaults, name) for name in ends})
    return model


def empty_model(located: Located | Checkpoint) -> PreTrainedModel:
    """Build a model from its configuration alone, on the device that holds no numbers."""
    # Its annotations leave `from_config` out.
    factory: Any = AutoModelForCausalLM
    try:
        config = AutoConfig.from_pretrained(
            located.path, local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"):
            model: PreTrainedModel = factory.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise BaseModelError(
            f"The layers of {located.path} cannot be told from its configuration: "
            f"{one_line(str(error))}"
        ) from error
    return model


def stored_names(
    model: PreTrainedModel, checkpoint: Checkpoint, *, whole: bool = True
) -> dict[str, str]:
    """Map the names of a model's parameters, tied ones once, to those of its checkpoint.

    It follows transformers' own rules of loading. A parameter that loading makes of other tensors
    than one of its shape, such as fused experts, has no name on disk: that is an error where the
    `whole` model is meant, else it is left out.
    """
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    state, prefix = model.state_dict(), model.base_model_prefix
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    names, unexpected, reshaped = {}, [], []
    for stored, shape in weight_shapes(checkpoint).items():
        name, converter = rename_source_key(stored, renamings, converters, prefix, state)
        if converter is None and shapes.get(name) == shape:
            names[name] = stored
        elif converter is None and name in shapes:
            reshaped.append(f"{name} {list(shapes[name])} against {list(shape)}")
        elif converter is not None or name not in state:  # a saved buffer is no weight
            unexpected.append(stored)
    missing = [name for name in shapes if name not in names]
    if whole and (missing or unexpected):
        raise BaseModelError(describe_mismatch(checkpoint, missing, unexpected, reshaped))
    return names


def on_gpu(model: PreTrainedModel) -> PreTrainedModel:
    """Move a model that is to answer or to be measured to the GPU, where there is one."""
    if not torch.cuda.is_available():
        return model
    # transformers' annotation of `to` leaves the model itself out.
    moved: PreTrainedModel = cast(Any, model).to("cuda")
    return moved


def load_config(base: Located) -> "PreTrainedConfig":
    """Load the base's configuration."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            base.path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise BaseModelError(
            f"The configuration of {base.name} cannot be read: {one_line(str(error))}"
        ) from error
    return config


def context_length(config: "PreTrainedConfig") -> int | None:
    """Return how many tokens a model has positions for, where its configuration says.

    A composite model says so in the configuration of its text model.
    """
    return getattr(config.get_text_config(), "max_position_embeddings", None) or None


def load_limits(base: Located) -> tuple[int | None, int | None]:
    """Return the base's context length and vocabulary size, where its configuration says."""
    config = load_config(base)
    vocabulary = getattr(config.get_text_config(), "vocab_size", None)
    return context_length(config), vocabulary or None
