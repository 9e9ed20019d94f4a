"""Serve a base with live dials."""

from typing import Any

import click

from prefreg.cli.options import TERM, Common, WholeRange, command, request_options
from prefreg.terms import Term


@command("serve")
@click.argument("terms", type=TERM, nargs=-1, metavar="[TERM...]")
@request_options(
    "ServingRequest",
    leave="terms",
    host={"metavar": "ADDRESS"},
    port={"type": WholeRange(0)},
    api_key={"metavar": "KEY", "envvar": "PREFREG_API_KEY"},
)
def serve(common: Common, terms: tuple[Term, ...], **options: Any) -> None:
    """Serve a base with live dials to every client of OpenAI, and a page to play with.

    A request sets the dials itself, by the name of its model (pocket+helpful:1,verbosity:-0.5) or
    by its field `preferences`; one that does not gets the TERMs. Ctrl-C lets running answers end.
    """

    def tell(address: str) -> None:
        common.emit(
            "serve",
            {"url": address, "api": f"{address}/v1", "terms": list(map(str, terms))},
            f"Serving at {address}: the page, and {address}/v1 for clients of OpenAI. "
            "Ctrl-C stops it.",
            asked=True,
        )

    common.open_registry().serve(terms, ready=tell, **options)


COMMANDS = [serve]
