"""The chat template of a model that is about to learn one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefreg.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_FILE = "chat_template.jinja"

PLAIN = """\
{{ bos_token or '' }}{% for message in messages %}\
{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] | trim }}\
{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}
"""
"""Headings in words, which every tokenizer can write; the answer ends with the end of sequence."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """Where a template came from, and what it is where it is new to the tokenizer."""

    origin: Literal["tokenizer", "plain", "file"]
    added: str | None


def choose_template(tokenizer: "PreTrainedTokenizerBase", file: Path | None) -> ChatTemplate:
    """Give a tokenizer the template of a file, else keep its own, else give it the plain one.

    Raises:
        UsageError: The file cannot be read.
    """
    if file is None and tokenizer.chat_template:
        return ChatTemplate("tokenizer", None)
    if file is None:
        text = PLAIN
    else:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"The chat template {file} cannot be read: {error}.") from error
    tokenizer.chat_template = text
    return ChatTemplate("plain" if file is None else "file", text)
