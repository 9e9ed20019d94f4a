"""What an experiment found: claims with their verdicts, tables, pictures and figures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefreg.evaluation.statistics import Estimate


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that should hold, and whether it did."""

    text: str
    held: bool | None
    """None where it was not measured; `figures` says why."""
    figures: str

    def __str__(self) -> str:
        verdict = {True: "held", False: "did not hold", None: "not measured"}[self.held]
        return f"{self.text} — **{verdict}**: {self.figures}."


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture that lies in the folder."""

    path: Path
    title: str
    caption: str


@dataclass(slots=True)
class Findings:
    """Everything that is written down of an experiment."""

    recipe: str
    """What was trained and asked, and what the intervals are of."""
    claims: list[Claim] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Drawn] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    """The figures, by name."""


def show(estimate: Estimate | None, digits: int = 2) -> str:
    """Write an estimate with its interval."""
    if estimate is None:
        return "-"
    low, high = estimate.low, estimate.high
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def view(estimate: Estimate | None) -> dict[str, float] | None:
    """Return an estimate in a form that JSON can hold."""
    if estimate is None:
        return None
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def markdown(title: str, found: Findings) -> str:
    """Write the findings as a page, pictures by their names."""
    lines = [f"# {title}", "", found.recipe, ""]
    lines += [f"- {claim}" for claim in found.claims]
    for picture in found.pictures:
        lines += ["", f"![{picture.title}]({picture.path.name})", "", picture.caption]
    for table in found.tables:
        lines += ["", f"## {table.title}", "", *_rows(table)]
    if found.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in found.notes)]
    return "\n".join(lines) + "\n"


def _rows(table: Table) -> list[str]:
    lines = ["| " + " | ".join(table.headers) + " |", "|" + "---|" * len(table.headers)]
    return lines + ["| " + " | ".join(row) + " |" for row in table.rows]
