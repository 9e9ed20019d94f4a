"""Writing the package of a new axis, complete and with tests that pass, from the template."""

import importlib.metadata
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from prefreg.axes.plugins import AxisCatalog
from prefreg.checkpoints.bundled import DEFAULT_BASE
from prefreg.errors import AxisError, OutputError, UsageError
from prefreg.terms import AXIS_NAME

_TEMPLATE = Path(__file__).parent / "template"
_SUFFIX = ".tmpl"
"""Every file of the template has it: no tool takes one for a real module, test or project."""


@dataclass(frozen=True, slots=True)
class NewPackage:
    """A package that was written."""

    axis: str
    distribution: str
    package: str
    folder: Path
    files: tuple[str, ...]
    """Relative to the folder, sorted."""

    @property
    def steps(self) -> list[str]:
        """What to run next."""
        # A relative path needs its dot: pip takes a bare name for one on the index.
        folder = str(self.folder) if self.folder.is_absolute() else f"./{self.folder}"
        return [
            f"pip install -e {shlex.quote(folder + '[dev]')}",
            f"prefreg check-axis {self.axis}",
            f"prefreg add-axis {self.axis} --base {DEFAULT_BASE}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return what was written in a form that JSON can hold."""
        return {
            "axis": self.axis,
            "distribution": self.distribution,
            "package": self.package,
            "folder": str(self.folder),
            "files": list(self.files),
            "next": self.steps,
        }


def write_package(name: str, folder: Path | None, catalog: AxisCatalog) -> NewPackage:
    """Write the package of the axis `name`, by default to `./prefreg-axis-NAME`."""
    _check_name(name, catalog)
    distribution = "prefreg-axis-" + re.sub("[-_]+", "-", name)
    package = distribution.replace("-", "_")
    target = folder or Path(distribution)
    words = {
        "name": name,
        "distribution": distribution,
        "package": package,
        "version": importlib.metadata.version("prefreg"),
    }
    files = {path.replace("PACKAGE", package): text for path, text in _fill(words).items()}
    _write(target, files)
    return NewPackage(name, distribution, package, target, tuple(sorted(files)))


def _check_name(name: str, catalog: AxisCatalog) -> None:
    # A distribution's name ends with a letter or a digit, which an axis name need not.
    if not AXIS_NAME.fullmatch(name) or name[-1] in "-_":
        where = " Name the folder with --output." if "/" in name or "\\" in name else ""
        raise UsageError(
            f"{name!r} cannot name an axis: use a lower-case letter, then letters, digits, "
            f"'_' or '-', as in 'formality', with a letter or digit at the end.{where}"
        )
    for found in catalog.axes:
        if name in (found.axis.name, *found.axis.aliases):
            raise AxisError(
                f"The name {name!r} is taken by the axis {found.axis.name!r} of "
                f"{found.plugin.distribution} {found.plugin.version}: choose another."
            )


def _fill(words: dict[str, str]) -> dict[str, str]:
    """Return the text of every file by its path in the package, PACKAGE standing for its name."""
    return {
        path.relative_to(_TEMPLATE).as_posix().removesuffix(_SUFFIX): Template(
            path.read_text("utf-8")
        ).substitute(words)
        for path in _TEMPLATE.rglob("*" + _SUFFIX)
    }


def _write(target: Path, files: dict[str, str]) -> None:
    made = not target.exists()
    try:
        if not made and (not target.is_dir() or any(target.iterdir())):
            raise OutputError(
                f"{target} {'is not empty' if target.is_dir() else 'is a file'}: "
                "choose another folder with --output."
            )
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(_explain(target, error)) from error
    try:
        for path, text in files.items():
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
    except BaseException as error:
        _remove(target, files, made=made)
        if isinstance(error, OSError):
            raise OutputError(_explain(target, error)) from error
        raise


def _remove(target: Path, files: dict[str, str], *, made: bool) -> None:
    """Take away what a failed run wrote into a folder that was empty."""
    for name in {Path(path).parts[0] for path in files}:
        if (target / name).is_dir():
            shutil.rmtree(target / name, ignore_errors=True)
        else:
            (target / name).unlink(missing_ok=True)
    if made:
        target.rmdir()


def _explain(target: Path, error: OSError) -> str:
    return (
        f"{target} cannot be written: {error.strerror or error}. "
        "Choose another folder with --output."
    )
