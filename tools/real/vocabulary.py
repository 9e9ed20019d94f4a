"""A byte-level BPE tokenizer with one token per role, and dialogues as its tokens."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from texts import Messages
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = ("<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_tokenizer(
    documents: Sequence[Messages], *, size: int, context: int
) -> PreTrainedTokenizerFast:
    """Learn the merges from every turn, each counted once."""
    turns = dict.fromkeys(each["content"] for messages in documents for each in messages)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(turns, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(SPECIALS[3:]),
        padding_side="left",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer so that transformers 4 and 5 both load it."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


Tokens = tuple[list[int], list[bool]]
"""Token ids, and which of them stand in an answer."""


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Messages]) -> list[Tokens]:
    """Return the tokens that the chat template gives, with the answers marked."""
    contents = [each["content"] for messages in documents for each in messages]
    pieces = iter(tokenizer(contents, add_special_tokens=False)["input_ids"])
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    found: list[Tokens] = []
    for messages in documents:
        ids, answer = [start], [False]
        for message in messages:
            says = message["role"] == "assistant"
            piece = next(pieces) + [end] * says
            ids += [tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>"), *piece]
            answer += [False] + [says] * len(piece)
        found.append((ids, answer))
    return found


def pack(
    documents: Sequence[Tokens], *, length: int, answers_only: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Join the documents to full rows of ids and labels; the rest at the end is left out."""
    ids = torch.tensor([token for tokens, _ in documents for token in tokens])
    labels = ids.clone()
    if answers_only:
        labels[~torch.tensor([mark for _, marks in documents for mark in marks])] = -100
    full = len(ids) // length * length
    return ids[:full].view(-1, length), labels[:full].view(-1, length)
