"""A report as one HTML file that needs no other: facts, pictures and a table."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefreg.evaluation.plots import Picture

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
class TableCell:
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
    rows: Sequence[Sequence[TableCell]],
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


def _table(headers: Sequence[str], rows: Sequence[Sequence[TableCell]]) -> str:
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
