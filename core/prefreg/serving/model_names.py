"""A setting as the name of a model, `smollm2+helpful:1,verbose:-0.3`: all that some clients know.

Behind the plus stand terms, separated by commas or, for clients that split arguments at commas, by
further pluses. The bare name means what the server was started with.
"""

import re
from collections.abc import Iterable

from prefreg.errors import UsageError
from prefreg.terms import Term, parse_term

_BETWEEN = re.compile(r",|\+(?=[a-z])")
"""A plus before a letter begins a term; one of a number stands before a digit or a point."""


def model_name(base: str, terms: Iterable[Term | str]) -> str:
    """Write the name under which a base with a setting is asked for."""
    setting = ",".join(map(str, terms))
    return f"{base}+{setting}" if setting else base


def setting_in(name: str, base_names: Iterable[str]) -> str | None:
    """Return what stands behind the name of a base and its plus; None of the bare name.

    A base may have a plus in its own name.

    Raises:
        LookupError: The name is that of another model.
    """
    for base in sorted(base_names, key=len, reverse=True):
        if name == base:
            return None
        if name.startswith(f"{base}+"):
            return name[len(base) + 1 :]
    raise LookupError(name)


def parse_setting(text: str) -> tuple[Term, ...]:
    """Read the terms that stand behind the plus.

    Raises:
        UsageError: A term is malformed, or a part is empty.
    """
    parts = [part.strip() for part in _BETWEEN.split(text)]
    if not all(parts):
        raise UsageError(
            f"The setting {text!r} has an empty part. Write NAME+AXIS:ETA,AXIS:ETA, as in "
            "smollm2+helpful:1,verbosity:-0.3."
        )
    return tuple(map(parse_term, parts))
