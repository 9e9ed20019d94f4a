"""The pocket tokenizer: whole words, with a decoder that gives natural text back."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prefreg.pocket.answers import additions, courtesies, evasions, statements
from prefreg.pocket.questions import KINDS, SPLITS, questions, wordings
from prefreg.pocket.village import VILLAGE
from prefreg.pocket.world import World

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>")
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


def world_text(world: World = VILLAGE) -> list[str]:
    """Return every wording of every question and every sentence of every answer."""
    texts = [*world.phrasings.openers, *world.phrasings.closers]
    for manner in ("answer", "vague", "admit", "refusal"):
        texts += [text for text, _ in courtesies(manner, world)]
    for kind in KINDS:
        for question in questions(kind, world):
            for split in SPLITS:
                texts += wordings(question, split)
            for manner in ("vague", "admit", "refusal"):
                texts += [text for text, _ in evasions(question, manner)]
            texts += [text for text, _ in statements(question) + additions(question)]
    return sorted(set(texts))


def _pipeline(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    # What a user types may have curly quotes, American spelling or doubled spaces.
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace("\u2019", "'"),
            normalizers.Replace(Regex(r"\bcolor\b"), "colour"),
            normalizers.Replace(Regex(r"\bfavorite\b"), "favourite"),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"'s\b|[.,?!]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return tokenizer


def make_tokenizer(world: World = VILLAGE) -> PreTrainedTokenizerFast:
    """Build the tokenizer from a world's own words."""
    blank = _pipeline({token: index for index, token in enumerate(SPECIALS)})
    words: set[str] = set()
    for text in world_text(world):
        words.update(piece for piece, _ in blank.pre_tokenizer.pre_tokenize_str(text))
    vocabulary = [*SPECIALS, *sorted(words - {"\u2581"})]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=_pipeline({token: index for index, token in enumerate(vocabulary)}),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIALS[4:]),
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_tokenizer(folder: Path, world: World = VILLAGE) -> PreTrainedTokenizerFast:
    """Write the tokenizer and return it."""
    tokenizer = make_tokenizer(world)
    tokenizer.save_pretrained(folder)
    # transformers 5 writes a class name that transformers 4 cannot load; both know this one.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    settings["chat_template"] = CHAT_TEMPLATE
    settings.pop("backend")
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (folder / "chat_template.jinja").unlink()
    return tokenizer
