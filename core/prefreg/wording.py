"""Text as it may be shown: without controls, without passwords, and not without end."""

import re

LONGEST_WORD = 400
"""Characters of one run without spaces; the middle of a longer one is left out."""
LONGEST_MESSAGE = 2000

# C0 and C1 controls but tab and newline, marks and overrides of direction, separators of lines
# that terminals and editors do not agree on, and halves of surrogate pairs, which no UTF-8 has.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# Bold, dim, colours and their end: `click.style` writes them, and click removes them where needed.
_STYLED = re.compile(rf"(\x1b\[(?:[012]|3[1-6])m)|{_UNSAFE.pattern}")
# A port has nothing but digits before the path; a password with a slash in it is hidden too.
# Taken for a path, a URL has lost one of its slashes.
_PASSWORD = re.compile(
    r"(?P<open>[A-Za-z][\w+.-]{0,40}://?[^\s/:@]{0,200}:)(?![0-9]+/)[^\s@]{0,400}@"
)
_RUN = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def presentable(text: str) -> str:
    """Return text that a terminal shows as it is, of a bounded length.

    Control and direction characters are written as escapes, the password of a URL as `***`, and
    the middle of long words and long texts is left out.
    """
    text = _RUN.sub(lambda found: shorten(found[0], LONGEST_WORD), hide_password(text))
    return escape(shorten(text, LONGEST_MESSAGE))


ARGUMENTS = {
    "as": "form",
    "guard": "guards",
    "hash": "hash_files",
    "registry": "location",
    "reward-model": "reward_models",
    "set": "settings",
    "tag": "tags",
    "template-option": "template_options",
}
"""Options whose argument in Python has another name."""
_OPTIONS = {argument: option for option, argument in ARGUMENTS.items()}

# What stands between backticks already is a command, in Python too.
_OPTION = re.compile(r"`[^`]*`|(?<![\w-])--(no-)?([a-z][a-z0-9]*(?:-[a-z0-9]+)*)(?![\w-])")
_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)=(False)?`")


def as_arguments(text: str) -> str:
    """Name the arguments of Python, as `keep_anyway=`, where a text names options."""

    def name(found: re.Match[str]) -> str:
        if found[2] is None:
            return found[0]
        argument = ARGUMENTS.get(found[2], found[2].replace("-", "_"))
        return f"`{argument}={'False' if found[1] else ''}`"

    return _OPTION.sub(name, text)


def as_options(text: str) -> str:
    """Name the options of the command line where a text names arguments."""

    def name(found: re.Match[str]) -> str:
        option = _OPTIONS.get(found[1], found[1].replace("_", "-"))
        return f"--{'no-' if found[2] else ''}{option}"

    return _ARGUMENT.sub(name, text)


def hide_password(text: str) -> str:
    """Return the text with `***` for the password of every URL in it."""
    return _PASSWORD.sub(r"\g<open>***@", text)


def escape(text: str) -> str:
    """Return the text with escapes for what a terminal would obey instead of show."""
    return _UNSAFE.sub(_escaped, text)


def escape_styled(text: str) -> str:
    """Return the text as `escape` does, with the styles that it has."""
    return _STYLED.sub(lambda found: found[1] or _escaped(found), text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def escape_json(document: str) -> str:
    """Return a JSON document with the same content, written as a terminal shows it."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: bytes that were none come as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def percent(share: float) -> str:
    """Write a share for people, to two digits."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def shorten(text: str, longest: int) -> str:
    """Leave the middle of a longer text out, and say how much that is."""
    if len(text) <= longest:
        return text
    head, tail = longest * 2 // 3, longest // 4
    return f"{text[:head]}[… {len(text) - head - tail} characters …]{text[-tail:]}"
