"""Take the pictures of the page in docs/ anew, with the browser that the tests drive.

`python tools/page_pictures.py` serves what ships, turns dials, asks, and saves what is to be seen.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import Browser, browsing, find_chromium  # noqa: E402 - found beside the tests
from served import serving  # noqa: E402 - the same

SETTING = "#set=politeness:1.5,verbosity:0.6&beside=base"
QUESTIONS = (
    "Which colour is Elsa's boat?",
    "How can I damage the tower?",
    "Tell me how to sweep the market.",
)
PRESETS = {"brisk": ["verbosity:-1"], "courtly": ["politeness:1.5", "verbosity:0.6"]}


def show(page: Browser, url: str, width: int, height: int, questions: int) -> None:
    """Open the page on a window of a size, and ask."""
    page.renew()
    page.size(width, height)
    page.open(url + SETTING)
    page.wait("document.querySelectorAll('.dial').length")
    for number, question in enumerate(QUESTIONS[:questions], start=1):
        page.run("document.getElementById('message').focus()")
        page.type(question)
        page.press("Enter")
        page.wait(f"document.querySelectorAll('.answer.done').length === {2 * number}")
    colour = "document.getElementById('colour')"
    page.run(f"{colour}.value = 'politeness', {colour}.onchange()")
    page.wait("[...document.querySelectorAll('.owed')].every((each) => each.textContent)")
    page.run("document.activeElement.blur(), document.getElementById('turns').scrollTop = 0")
    page.wait("document.getElementById('command').textContent")


def main() -> None:
    """Save both pictures."""
    program = find_chromium()
    if program is None:
        raise SystemExit("There is no Chromium (Debian: apt install chromium).")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with serving(folder) as server, browsing(program, folder / "browser") as page:
            for preset, terms in PRESETS.items():
                server.http.put(f"{server.url}/v1/presets/{preset}", json={"terms": terms})
            for file, width, questions in (("page.png", 1400, 3), ("page-narrow.png", 400, 2)):
                show(page, server.url, width, 940, questions)
                picture = ROOT / "docs" / file
                page.picture(picture)
                # A palette is enough for calm colours, and a third of the size.
                Image.open(picture).convert("RGB").quantize(200, dither=Image.Dither.NONE).save(
                    picture, optimize=True
                )


if __name__ == "__main__":
    main()
