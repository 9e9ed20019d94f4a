"""What a base model is that a package offers by a name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prefreg.axes.base_world import BaseWorld
from prefreg.axes.isolation import off_stdout
from prefreg.errors import BaseModelError, UsageError, reason
from prefreg.terms import AXIS_NAME

_SAMPLING = ("temperature", "top_p")


@dataclass(frozen=True, slots=True)
class BundledBase:
    """A base that is known by a name: where its files are, how to get it, and its defaults."""

    name: str
    summary: str
    find: Callable[[], Path | None]
    """Return the folder, or the GGUF file, or None where it is not there; loads nothing heavy.
    A BaseModelError says why what is there cannot be used."""
    get: str = ""
    """The command line that brings it."""
    licence: str = ""
    training: Mapping[str, object] = field(default_factory=dict)
    """Default settings of `add-axis`, those of whole weights: fields of DPOConfig. Without any,
    those of the paper."""
    lora: int | None = None
    """The rank of LoRA that `add-axis` trains by default; None: whole weights."""
    sampling: Mapping[str, float] = field(default_factory=dict)
    """Defaults of `temperature` and `top_p`, taken once one of them asks for sampling."""
    world: BaseWorld | None = None
    """The closed world that it knows."""
    owner: str = ""
    """The plugin that brings it, which prefreg fills in."""

    def __post_init__(self) -> None:
        """Check what a plugin wrote.

        Raises:
            UsageError: The name is not made like an axis name, or a part is of another kind.
        """
        if not isinstance(self.name, str) or not AXIS_NAME.fullmatch(self.name):
            raise UsageError(f"{self.name!r} is no name for a base. Use lower-case words.")
        wrong = next((part for part, sound in self._parts() if not sound), None)
        if wrong is not None:
            raise UsageError(f"The {wrong} of the base {self.name!r} is of another kind.")

    def _parts(self) -> list[tuple[str, bool]]:
        def is_line(text: object) -> bool:
            return isinstance(text, str) and text.isprintable()

        drawn = self.sampling
        return [
            ("summary", is_line(self.summary) and bool(self.summary)),
            ("find", callable(self.find)),
            ("get", is_line(self.get)),
            ("licence", is_line(self.licence)),
            ("training", isinstance(self.training, Mapping)),
            ("lora", self.lora is None or (type(self.lora) is int and self.lora >= 1)),
            ("sampling", isinstance(drawn, Mapping) and set(drawn) <= set(_SAMPLING)),
            ("world", self.world is None or isinstance(self.world, BaseWorld)),
        ]

    def locate(self) -> Path:
        """Return the folder or the GGUF file.

        Raises:
            BaseModelError: It is not there or cannot be used; the message ends with the command
                that brings it.
        """
        try:
            with off_stdout():
                found = self.find()
            if found is None or not found.exists():
                raise BaseModelError(f"The base {self.name!r} is not installed.")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of a plugin, which must not end the command line
            told = reason(error)
            if not isinstance(error, BaseModelError):
                told = f"The base {self.name!r} cannot be looked for ({self.owner}): {told}."
            raise BaseModelError(f"{told}{self.how_to_get()}") from error
        return found

    def problem(self) -> str | None:
        """Return why it cannot be used, or None where it can."""
        try:
            self.locate()
        except BaseModelError as error:
            return str(error)
        return None

    def how_to_get(self) -> str:
        """Return the end of a message: the command that brings the base."""
        return f" Get it: `{self.get}`" if self.get else ""
