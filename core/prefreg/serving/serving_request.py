"""What is asked of a server; loads nothing heavy."""

from dataclasses import dataclass, field
from ipaddress import ip_address

from prefreg.errors import UsageError
from prefreg.terms import Term
from prefreg.values import check_number

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""What this machine calls itself, which no other reaches."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host in LOOPBACK or ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class ServingRequest:
    """What is asked of a server; every default is the command line's."""

    terms: tuple[Term, ...] = ()
    """The setting of requests that name none."""
    base: str | None = None
    """Base model: a name, folder, GGUF file or hub id.  [default: the one that has every term]"""
    host: str = "127.0.0.1"
    """Address to listen at; one that other machines reach needs a key."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    api_key: str | None = field(default=None, repr=False)
    """Key that clients must send.  [env: PREFREG_API_KEY, which no list of processes shows]"""
    max_tokens: int = 2048
    """Tokens of an answer at most."""
    max_eta: float = 16.0
    """Coefficients at most, on both sides."""
    max_waiting: int = 256
    """Answers that may wait for their turn; more are refused with 429."""

    def __post_init__(self) -> None:
        check_number(self.port, "--port", low=0, high=65535)
        check_number(self.max_tokens, "--max-tokens", low=1)
        check_number(self.max_eta, "--max-eta", low=0)
        check_number(self.max_waiting, "--max-waiting", low=1)
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise UsageError("An API key is of printable ASCII characters: headers take no others.")
        if not self.api_key and not is_loopback(self.host):
            raise UsageError(
                f"--host {self.host} lets other machines in: give a key with PREFREG_API_KEY or "
                "--api-key, which every request must then send."
            )
