"""Load a base from disk: without remote code, without chatter."""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import psutil
import torch
import transformers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from prefreg.checkpoints.bases import BaseModel
from prefreg.checkpoints.checkpoint import Checkpoint
from prefreg.errors import BaseModelError, UsageError, listed, one_line
from prefreg.files import human_size


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
    base: BaseModel,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    *,
    four_bit: bool = False,
) -> PreTrainedModel:
    """Load the base's weights: in float32, the precision of training, or in their own (`auto`).

    With `four_bit` the matrices of its linear layers are quantised, and computed with in `dtype`.
    """
    _check_memory(base, torch.uint8 if four_bit else dtype)
    options = {"quantization_config": _four_bits(dtype)} if four_bit else {}
    try:
        # With `output_loading_info` a pair is returned, which the annotations do not tell.
        model, info = _factory(_read_config(base)).from_pretrained(
            base.path,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
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
    if four_bit:
        _require_four_bits(model, base.name)
    return _freeze_towers(with_sound_defaults(model))


def _require_four_bits(model: PreTrainedModel, name: str) -> None:
    made: list[Any] = [each for each in model.modules() if type(each).__name__ == "Linear4bit"]
    if not made:
        raise BaseModelError(
            f"bitsandbytes quantises no layer of {name}, as none is a plain linear one: leave "
            "--four-bit out."
        )
    for each in made:
        # bitsandbytes 0.50 packs a layer in which a CPU of today answers for good, and a pole that
        # is trained on would get no gradients through it.
        each.support_avx512bf16_for_cpu = False


def _four_bits(dtype: torch.dtype | Literal["auto"]) -> BitsAndBytesConfig:
    """Ask for NF4 with constants that are quantised too (Dettmers et al., QLoRA, 2023)."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError("--four-bit needs bitsandbytes: pip install 'prefreg[qlora]'.")
    make: Any = BitsAndBytesConfig  # its constructor carries no types
    made: BitsAndBytesConfig = make(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return made


def _check_memory(base: BaseModel, dtype: torch.dtype | Literal["auto"]) -> None:
    """Refuse a model that memory is too small for, before the system ends the process."""
    specs = [tensor.spec for tensor in base.checkpoint.tensors.values()]
    size = (
        sum(spec.nbytes for spec in specs)
        if dtype == "auto"
        else sum(spec.elements for spec in specs) * dtype.itemsize
    )
    free = psutil.virtual_memory().available
    if free < size:
        raise BaseModelError(
            f"{base.name} takes {human_size(size)} of memory, and {human_size(free)} are free. Use "
            "a smaller model, or a machine with more; `prefreg compose` needs none of it."
        )


def _read_config(located: Located | Checkpoint) -> PreTrainedConfig:
    config: PreTrainedConfig = AutoConfig.from_pretrained(
        located.path, local_files_only=True, trust_remote_code=False
    )
    return config


def _factory(config: PreTrainedConfig) -> Any:
    """Return what makes a model that writes text: of the text part alone, where there is such.

    Where no list of transformers has the configuration, its class is the one that it names.
    """
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if type(config) not in MODEL_FOR_MULTIMODAL_LM_MAPPING:
        for name in config.architectures or ():
            named = getattr(transformers, name, None)
            if isinstance(named, type) and issubclass(named, PreTrainedModel):
                return named
    return AutoModelForMultimodalLM


def _freeze_towers(model: PreTrainedModel) -> PreTrainedModel:
    """Let nothing of a model that also takes images or sound be trained but its text part."""
    if model.config.get_text_config() is not model.config:
        parts: Any = model  # transformers' annotations of these leave much out
        model.requires_grad_(False)
        for part in (parts.get_decoder(), parts.get_output_embeddings()):
            if part is not None:
                part.requires_grad_(True)
    return model


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
    try:
        config = _read_config(located)
        with torch.device("meta"):
            factory = _factory(config)
            # A class of one model has no public way.
            single = isinstance(factory, type) and issubclass(factory, PreTrainedModel)
            make = factory._from_config if single else factory.from_config
            model: PreTrainedModel = make(
                config, **({} if single else {"trust_remote_code": False})
            )
    except Exception as error:
        raise BaseModelError(
            f"The layers of {located.path} cannot be told from its configuration: "
            f"{one_line(str(error))}"
        ) from error
    return _freeze_towers(model)


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
        return _read_config(base)
    except Exception as error:
        raise BaseModelError(
            f"The configuration of {base.name} cannot be read: {one_line(str(error))}"
        ) from error


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


def no_numbers(model: PreTrainedModel) -> BaseModelError:
    """Make the error that what a model computes is not finite, with the weights that are not."""
    weights = model.named_parameters()
    spoilt = [name for name, weight in weights if not bool(weight.isfinite().all())]
    if spoilt:
        return BaseModelError(
            f"The model computes no finite numbers: NaN or infinity stands in {listed(spoilt)}. "
            "Fetch the base again, or use another."
        )
    return BaseModelError(
        "With these weights the model computes no finite numbers: take smaller coefficients."
    )
