"""How expected an answer is to a causal language model: the metric of the axis.

`PREFREG_FLUENCY_MODEL` names the model, a folder or a hub id; without it the bundled one judges,
which knows a few hundred words. `PREFREG_FLUENCY_DEVICE` is `cpu` unless it says otherwise.
Nothing heavy is imported before the first answer is scored: listing axes must stay quick.
"""

import functools
import math
import os
from typing import TYPE_CHECKING, Any

from prefreg import DataError, pocket

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MODEL = "PREFREG_FLUENCY_MODEL"
DEVICE = "PREFREG_FLUENCY_DEVICE"


def mean_log_prob(prompt: str, answer: str) -> float:
    """Return the mean log-probability of an answer's tokens, in nats; an empty answer's is that
    of a guess among all tokens."""
    import torch

    name = os.environ.get(MODEL) or str(pocket.model_dir())
    model, tokenizer = _load(name, os.environ.get(DEVICE) or "cpu")
    asked = _as_prompt(prompt, tokenizer)
    ids, start = _encode(asked + answer, tokenizer), len(_encode(asked, tokenizer))
    excess = max(0, len(ids) - getattr(model.config, "max_position_embeddings", len(ids)))
    ids, start = ids[excess:], max(1, start - excess)
    if len(ids) <= start:
        return -math.log(model.config.vocab_size)
    with torch.inference_mode():
        tokens = torch.tensor([ids], device=model.device)
        log_probs = model(input_ids=tokens).logits[0, start - 1 : -1].float().log_softmax(-1)
        return float(log_probs.gather(1, tokens[0, start:, None]).mean())


@functools.cache
def _load(name: str, device: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", use_safetensors=True)
        return model.to(device).eval(), tokenizer
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"The judge {name!r} cannot be loaded on {device!r}: {reason}. "
            f"Set {MODEL} to a folder or a hub id, and {DEVICE} to a device."
        ) from error


def _as_prompt(prompt: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    if tokenizer.chat_template is None:
        return prompt + "\n"
    turns = [{"role": "user", "content": prompt}]
    text: Any = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return str(text)


def _encode(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    # A chat template writes the special tokens itself.
    ids: Any = tokenizer.encode(text, add_special_tokens=tokenizer.chat_template is None)
    return list(ids)
