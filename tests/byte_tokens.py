"""A tokenizer to which no two texts are alike, and what TRL's own trainer makes of rows with it."""

import copy
import json
from types import SimpleNamespace
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prefreg import PreferencePair
from prefreg.data.tokens import TokenSet, tokenise_pairs

SPECIALS = ["<pad>", "<s>", "<|end|>", "<|start|>"]
Ids = tuple[list[int], ...]
"""Those of a prompt, its chosen answer and its rejected one."""


def tokenizer(
    template: str | None, *, bos: bool = False, special: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """Make a tokenizer with a byte to a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first = [*SPECIALS, *special]
    vocabulary = {token: place for place, token in enumerate([*first, *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(first)
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="<|end|>", pad_token="<pad>"
    )
    made.chat_template = template
    return made


def user(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def row(prompt: Any, chosen: Any, rejected: Any, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def of_trl(given: dict[str, Any], using: Any) -> Ids:
    """Prepare a row as TRL's trainer does, after what TRL has for rows of older forms."""
    from datasets import IterableDataset
    from trl.data_utils import maybe_convert_to_chatml, maybe_extract_prompt
    from trl.trainer.dpo_trainer import DPOTrainer

    read = maybe_extract_prompt(maybe_convert_to_chatml(copy.deepcopy(given)))
    read |= {key: given[key] for key in ("tools", "chat_template_kwargs") if key in given}
    settings = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    made = DPOTrainer._prepare_dataset(
        SimpleNamespace(_tokenizer=getattr(using, "tokenizer", using)),
        IterableDataset.from_generator(lambda: iter([json.loads(json.dumps(read))])),
        using,
        settings,
        "train",
    )
    [found] = made
    return tuple(found[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))


def written(
    given: dict[str, Any] | PreferencePair, using: PreTrainedTokenizerFast
) -> tuple[Ids, TokenSet]:
    pair = given if isinstance(given, PreferencePair) else PreferencePair.from_row(given)
    made = tokenise_pairs([pair], using, max_length=5000)
    [ids] = made.pairs
    return (ids.prompt_ids.tolist(), ids.chosen_ids.tolist(), ids.rejected_ids.tolist()), made
