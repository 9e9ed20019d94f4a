"""Evaluate one composition, hold it against requirements, and keep what was found."""

import base64
import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluation, Evaluator, open_evaluator
from prefreg.evaluation.figures import Figure
from prefreg.evaluation.requirements import Requirement, Verdict, decide
from prefreg.progress import Progress
from prefreg.registry import VersionRecord
from prefreg.registry.access import Access
from prefreg.terms import Term, format_eta

MEASUREMENT = "evaluation"
"""The kind under which `--store` keeps figures with a version."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A composition with the verdict on every requirement."""

    evaluation: Evaluation
    verdicts: tuple[Verdict, ...]

    @property
    def met(self) -> bool:
        """Whether every requirement is met."""
        return all(verdict.met for verdict in self.verdicts)


def evaluate(
    access: Access,
    terms: Sequence[Term],
    request: EvaluationRequest,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a composition beside its base, in memory."""
    evaluator = open_evaluator(access, terms, request, progress)
    return evaluator.evaluate(evaluator.candidate(terms))


def gate(
    access: Access,
    terms: Sequence[Term],
    requirements: Sequence[Requirement],
    request: EvaluationRequest,
    *,
    strict: bool = False,
    progress: Progress | None = None,
) -> Gate:
    """Measure a composition and decide on requirements; axes that only they name are scored too."""
    wanted = open_evaluator(
        access, terms, _with_axes(access, terms, requirements, request), progress
    )
    named = [replace(each, name=_canonical(wanted, each.name)) for each in requirements]
    found = wanted.evaluate(wanted.candidate(terms))
    return Gate(found, decide(named, found.figures, strict=strict))


def _with_axes(
    access: Access,
    terms: Sequence[Term],
    requirements: Sequence[Requirement],
    request: EvaluationRequest,
) -> EvaluationRequest:
    from prefreg.axes.plugins import load_axes

    asked = [each.axis for each in requirements if each.axis is not None]
    if request.axes:
        return replace(request, axes=tuple(dict.fromkeys((*request.axes, *asked))))
    catalog = load_axes()
    installed = {name for found in catalog.axes for name in (found.axis.name, *found.axis.aliases)}
    with access.reading() as store:
        own = [store.canonical(term.axis) or term.axis for term in terms]
        missing = [name for name in asked if (store.canonical(name) or name) not in own]
    if not missing:
        return request
    # An axis that is only among the terms may be one that is not installed.
    return replace(request, axes=tuple([name for name in own if name in installed] + missing))


def _canonical(evaluator: Evaluator, name: str) -> str:
    head, dot, rest = name.partition(".")
    for axis in evaluator.axes.values():
        if head in axis.aliases:
            return axis.name + dot + rest
    return name


def store_evaluation(access: Access, evaluation: Evaluation) -> VersionRecord:
    """Append the figures to the measurements of the one version that was composed."""
    from prefreg.errors import UsageError

    versions = evaluation.candidate.versions
    if len(versions) != 1:
        raise UsageError("--store keeps figures of one version: give exactly one term.")
    ((eta, record),) = versions
    value = {
        "eta": eta,
        "figures": {each.name: _kept(each) for each in evaluation.figures.measured},
    }
    with access.changing() as store:
        store.measure(record.axis, record.number, MEASUREMENT, value, describe_protocol(evaluation))
        return store.resolve(record.axis, str(record.number))


def describe_protocol(evaluation: Evaluation) -> str:
    """Say in one line how figures came about."""
    request = evaluation.request
    sources = "; ".join(f"{name}: {source}" for name, source in evaluation.sources.items())
    return (
        f"{evaluation.candidate.formula}; {evaluation.prompts} prompts in {evaluation.groups} "
        f"groups, one answer each at temperature 1, seed {request.seed}; pairs {sources or 'none'}"
    )


def figure_view(figure: Figure) -> dict[str, Any]:
    """Return a figure in a form that JSON can hold."""
    return asdict(figure)


def evaluation_view(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation in a form that JSON can hold."""
    candidate = evaluation.candidate
    return {
        "formula": candidate.formula,
        "terms": [
            {"axis": record.axis, "version": record.number, "eta": eta, "sha256": record.sha256}
            for eta, record in candidate.versions
        ],
        "base": str(candidate.base),
        "composition": candidate.key,
        "prompts": evaluation.prompts,
        "groups": evaluation.groups,
        "seed": evaluation.request.seed,
        "pairs": dict(evaluation.sources),
        "interval": INTERVAL,
        "cached": evaluation.cached,
        "figures": [figure_view(each) for each in evaluation.figures.measured],
        "missing": dict(evaluation.figures.missing),
    }


INTERVAL = "95 %, over groups of prompts, for this φ"


def _kept(figure: Figure) -> dict[str, Any]:
    found: dict[str, Any] = {
        "value": figure.value.value,
        "low": figure.value.low,
        "high": figure.value.high,
    }
    if figure.base is not None:
        found["base"] = figure.base.value
    return found


def describe_terms(terms: Sequence[Term]) -> str:
    """Write terms as they are given on the command line."""
    return " ".join(f"{term.axis}:{format_eta(term.eta)}" for term in terms) or "base"


_STYLE = """
:root{color-scheme:light dark;--ink:#1c1f24;--soft:#5c6470;--line:#e3e6ea;--page:#f6f7f9;
--card:#fff;--accent:#0072b2}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a0a8b3;--line:#343a43;--page:#15181c;
--card:#1e2228;--accent:#56b4e9}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);line-height:1.5;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .35rem;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:2.4rem 0 .8rem}
.recipe{font-family:ui-monospace,SFMono-Regular,Menlo,monospace;color:var(--soft);margin:0 0 1.4rem}
.facts{display:flex;flex-wrap:wrap;gap:.75rem;margin:0;padding:0}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:.6rem .9rem}
.facts dt{font-size:.75rem;color:var(--soft)}
.facts dd{margin:0;font-weight:600;font-variant-numeric:tabular-nums}
figure{margin:0 0 1.4rem;background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:1rem}
figure img{display:block;width:100%;height:auto;border-radius:6px;background:#fff}
figcaption{color:var(--soft);font-size:.88rem;margin-top:.7rem}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:12px}
table{border-collapse:collapse;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .7rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{position:sticky;top:0;background:var(--card);color:var(--soft);font-weight:600}
th:first-child,td:first-child{text-align:left;font-family:ui-monospace,Menlo,monospace}
tr:last-child td{border-bottom:0}
td small{display:block;color:var(--soft);font-size:.72rem}
td.best{color:var(--accent);font-weight:700}
p.note{color:var(--soft);max-width:46rem}
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with what it shows."""

    path: Path
    title: str
    caption: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure in a table, with its interval."""

    text: str
    interval: str = ""
    best: bool = False


def write_report(
    destination: Path,
    *,
    title: str,
    recipe: str,
    facts: Sequence[tuple[str, str]],
    pictures: Sequence[Picture],
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    notes: Sequence[str],
) -> None:
    """Write the report."""
    body = [f"<h1>{_safe(title)}</h1>", f'<p class="recipe">{_safe(recipe)}</p>']
    body.append('<dl class="facts">')
    body += [f"<div><dt>{_safe(name)}</dt><dd>{_safe(value)}</dd></div>" for name, value in facts]
    body.append("</dl>")
    for picture in pictures:
        body += [f"<h2>{_safe(picture.title)}</h2>", _figure(picture)]
    body.append("<h2>Every setting</h2>")
    body.append(_table(headers, rows))
    body += [f'<p class="note">{_safe(note)}</p>' for note in notes]
    document = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_safe(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )
    destination.write_text(document, encoding="utf-8")


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    return (
        f'<figure><img alt="{_safe(picture.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_safe(picture.caption)}</figcaption></figure>"
    )


def _table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    head = "".join(f"<th>{_safe(name)}</th>" for name in headers)
    lines = []
    for row in rows:
        cells = []
        for cell in row:
            mark = ' class="best"' if cell.best else ""
            interval = f"<small>{_safe(cell.interval)}</small>" if cell.interval else ""
            cells.append(f"<td{mark}>{_safe(cell.text)}{interval}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _safe(text: str) -> str:
    return html.escape(text, quote=True)
