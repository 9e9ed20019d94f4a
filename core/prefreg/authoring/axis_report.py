"""What a check of an axis found."""

from dataclasses import dataclass
from typing import Any, Literal

from prefreg.data.pairs import Audit
from prefreg.data.tokens import PreviewToken
from prefreg.json_values import to_json

Status = Literal["passed", "warned", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check, with the figure or the example that it rests on."""

    check: str
    status: Status
    message: str


def passed(check: str, message: str) -> Finding:
    """Report that the axis keeps what is checked."""
    return Finding(check, "passed", message)


def warned(check: str, message: str) -> Finding:
    """Report what its author should know and may want."""
    return Finding(check, "warned", message)


def failed(check: str, message: str) -> Finding:
    """Report what must be corrected."""
    return Finding(check, "failed", message)


@dataclass(frozen=True, slots=True)
class AxisCheck:
    """Everything that was found about an axis; a check that an earlier one prevents is absent."""

    axis: str
    source: str
    seed: int
    rows: int
    """Rows that were read."""
    findings: tuple[Finding, ...]
    audit: Audit | None = None
    """What became of the rows, where they could be labelled."""
    preview: tuple[list[PreviewToken], ...] = ()
    """The first pairs, as the bundled model's tokenizer writes them."""

    @property
    def passed(self) -> bool:
        """Whether no check failed; warnings do not count."""
        return not self._count("failed")

    def to_json(self) -> dict[str, Any]:
        """Return the report in a form that JSON can hold."""
        return {
            "axis": self.axis,
            "source": self.source,
            "seed": self.seed,
            "rows": self.rows,
            "passed": self.passed,
            "findings": to_json(self.findings),
            "audit": to_json(self.audit),
            "preview": to_json(self.preview),
        }

    def __str__(self) -> str:
        """Write a line for each check, the verdict, and the preview."""
        width = max(len(finding.check) for finding in self.findings)
        lines = [f"Axis {self.axis}: {self.rows} rows of {self.source!r}, seed {self.seed}", ""]
        lines += [
            f"{finding.status}  {finding.check.ljust(width)}  {finding.message}"
            for finding in self.findings
        ]
        lines += ["", self._verdict()]
        for number, example in enumerate(self.preview, 1):
            lines += ["", f"example {number}"]
            for role in ("prompt", "chosen", "rejected"):
                tokens = " ".join(token.text for token in example if token.role == role)
                lines.append(f"  {role:<9}{tokens}")
        return "\n".join(lines)

    def _verdict(self) -> str:
        counts = {status: self._count(status) for status in ("passed", "warned", "failed")}
        counted = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        return f"{'It conforms' if self.passed else 'It does not conform'}: {counted}."

    def _count(self, status: str) -> int:
        return sum(finding.status == status for finding in self.findings)
