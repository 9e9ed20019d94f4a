"""Serve the page for a first look: the dials of a chat model where there are some, else pocket's.

`make play` installs what this needs and runs it.
"""

from collections.abc import Collection

import prefreg
from prefreg import OutputError, api


def choose_base(dialled: Collection[str]) -> str:
    """Choose a base that is here and has dials; pocket, which all have, comes last."""
    ready = [name for name, base in api.bundled_bases().items() if base.problem() is None]
    return next((name for name in reversed(ready) if name in dialled), ready[0])


def main() -> None:
    """Serve at port 8000, or at a free one."""
    registry = prefreg.open()
    base = choose_base({each.base.name for each in registry.summaries()})

    def tell(address: str) -> None:
        print(f"{base} and its dials are at {address} (Ctrl-C ends this)", flush=True)

    try:
        registry.serve(base=base, ready=tell)
    except OutputError:  # somebody else listens there
        registry.serve(base=base, port=0, ready=tell)


if __name__ == "__main__":
    main()
