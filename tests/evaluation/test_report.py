import base64
import re
from html.parser import HTMLParser
from pathlib import Path

from prefreg.evaluation.plots import Picture
from prefreg.evaluation.sweep import Cell, write_report

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def written(folder: Path) -> str:
    (folder / "a.png").write_bytes(PIXEL)
    write_report(
        folder / "report.html",
        title="Sweep of <b> & c",
        recipe="θ",
        facts=[("base", "pocket")],
        pictures=[Picture(folder / "a.png", "Curves", "What is <seen>.")],
        headers=["setting", "kl"],
        rows=[[Cell("helpful:1", best=True), Cell("0.1", "0.0 to 0.2")]],
        notes=["A note."],
    )
    return (folder / "report.html").read_text("utf-8")


def test_a_report_is_one_file_that_asks_nothing_of_a_network(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "http" not in text
    assert "@import" not in text
    assert base64.b64encode(PIXEL).decode() in text


def test_texts_are_escaped_and_every_tag_is_closed(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert "Sweep of &lt;b&gt; &amp; c" in text
    open_tags: list[str] = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Balanced().feed(text)
    assert open_tags == []


def test_figures_have_their_intervals_and_pictures_their_captions(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert "<td>0.1<small>0.0 to 0.2</small></td>" in text
    assert '<td class="best">helpful:1</td>' in text
    assert "<figcaption>What is &lt;seen&gt;.</figcaption>" in text
