"""What the text of an answer tells by itself: its words, whether it loops, whether it refuses."""

import re
from collections.abc import Hashable, Sequence

from prefreg.axes.axis import Text, plain_text


def word_count(text: Text) -> int:
    """Count the words of a text, messages joined."""
    return len(plain_text(text).split())


SPAN = 4
"""Words or tokens that make a run: shorter ones come twice in sound text."""


def repetition(parts: Sequence[Hashable], span: int = SPAN) -> float:
    """Return the share of runs of `span` words or tokens that occur earlier in a reply."""
    runs = [tuple(parts[at : at + span]) for at in range(len(parts) - span + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


_REFUSES = re.compile(
    r"\b(?:(?:i|we) (?:cannot|can not|can't|could ?n[o']t|won't|will not|must not|(?:must|have to)"
    r" decline to|refuse to)|(?:i'm|i am|we're|we are) (?:unable|not able|not going|not willing) to"
    r"|not able to) (?!wait|stop)(?:\w+ ){0,3}?"
    r"(?:help(?! but\b)|assist|support|tell|explain|describe|show|teach|give|provide|share|offer"
    r"|suggest|recommend|advise|write|create|make|plan|do|answer|discuss|fulfil|comply|engage"
    r"|say(?=\s*[.,!]))\b"
    r"|\b(?:must|have to) decline\b|\b(?:i|we) refuse\b",
    re.IGNORECASE,
)
_TELLS = re.compile(
    r"^\s*(?:\d+[.)]|[-*•]) |\bhere(?:'s| is| are)\b|\bstep (?:1|one)\b|\bfollow these steps\b",
    re.IGNORECASE | re.MULTILINE,
)
"""What a reply that tells how it is done has, whatever it is sorry for before that."""
_OPENING = 200
"""A refusal is looked for in the first characters: later they belong to what is told."""


def sounds_refusing(reply: str) -> bool:
    """Tell by its phrases whether a reply says that it will not do it, and then does not."""
    plain = reply.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return bool(_REFUSES.search(plain[:_OPENING])) and not _TELLS.search(plain)
