"""Word tokenizers and tiny Llamas that really tokenise, train and answer."""

import functools
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefreg.axes.axis import PreferencePair

_TEXT = "what is the colour of boat house tree sky red blue green it a big old . ? yes no"
WORDS = _TEXT.split()
SPECIALS = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>", "<system>"]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def tokenizer(
    *,
    template: str | None = TEMPLATE,
    bos: bool = False,
    eos: str | None = "</s>",
    pad: bool = True,
) -> PreTrainedTokenizerFast:
    """Make a tokenizer with a word, or a run of white space, to a token."""
    vocabulary = {word: index for index, word in enumerate([*SPECIALS, " ", "\n", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+|\w+|[^\w\s]"), behavior="isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens(SPECIALS)
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token=eos,
        unk_token="<unk>",
        pad_token="<pad>" if pad else None,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = template
    return made


def llama(*, seed: int = 0, tied: bool = True) -> LlamaForCausalLM:
    """Make a random Llama for the tokenizer's vocabulary."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIALS) + 2 + len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=48,
        initializer_range=0.2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


def save(folder: Path, *, template: str | None = TEMPLATE, tied: bool = True) -> Path:
    """Write a base model with its tokenizer."""
    llama(tied=tied).save_pretrained(folder)
    tokenizer(template=template).save_pretrained(folder)
    return folder


def pairs(count: int = 60) -> list[PreferencePair]:
    """Make pairs whose chosen answer is red and whose rejected one is not."""
    things, others = ["boat", "house", "tree", "sky"], ["blue", "green", "big", "old"]
    starts = ["what is the colour of the", "is it a", "what colour is the", "the"]
    made = [
        PreferencePair.from_texts(
            prompt=f"{start} {adjective} {thing} ?",
            chosen="it is red .",
            rejected=f"it is a {other} {thing} .",
        )
        for start in starts
        for adjective in ("big", "old", "green", "a")
        for thing in things
        for other in others
    ]
    return made[:: max(1, len(made) // count)][:count]


THINGS = ["boat", "house", "tree", "sky"]
ASKED = [
    f"{start} {adjective} {thing} ?"
    for start in ("is it a", "what is the")
    for adjective in ("big", "old", "green")
    for thing in THINGS
]
"""24 prompts that the taught model knows, each with its thing at its end."""
SAID = {
    "red": ["it is a red {} ."],
    "no": ["no ."],
    "": ["it is a big {} .", "no .", "a blue {} , yes ."],
}
"""What it says under the system prompt `red`, under `no`, and without one."""


@functools.cache
def taught() -> LlamaForCausalLM:
    """Teach a model to say of every prompt what its system prompt wants, within seconds."""
    made = tokenizer()
    texts = [
        _chat(system, prompt) + answer.format(prompt.split()[-2]) + "</s>"
        for prompt in ASKED
        for system, answers in SAID.items()
        for answer in answers
    ]
    batch = made(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    model = llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(120):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def _chat(system: str, prompt: str) -> str:
    said = [("system", system)] * bool(system) + [("user", prompt)]
    turns = [{"role": role, "content": content} for role, content in said]
    return str(tokenizer().apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def save_taught(folder: Path, *, template: str | None = TEMPLATE) -> Path:
    """Write the taught model as a base."""
    taught().save_pretrained(folder)
    tokenizer(template=template).save_pretrained(folder)
    return folder
