"""The site of a registry: what it says, that it runs nothing and asks nobody, and is whole."""

import html.parser
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

import prefreg
import tiny_registry
from browser import Browser, browsing, find_chromium
from prefreg import OutputError, parse_term
from prefreg.registry import Access
from prefreg.sharing.charts import Chart, Line, Point
from prefreg.sharing.report import write_report

EVIL = "</style><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & {{ 7 * 7 }}"


def poles(accuracy: float, margin: float = 0.5) -> dict[str, Any]:
    report = {"pairs": 40, "accuracy": accuracy, "mean_margin": margin}
    curve = [{"step": step, "loss": 0.7 - step / 100} for step in range(1, 4)]
    return {pole: {"report": report, "curve": curve} for pole in ("positive", "negative")}


RANGE = {
    "low": -2.0,
    "high": 3.0,
    "figure": "words",
    "below": {"readings": [{"eta": -1, "effect": {"value": -0.5, "low": -0.75, "high": -0.25}}]},
    "above": {"readings": [{"eta": 1, "effect": {"value": 0.625, "low": 0.5, "high": 0.75}}]},
}


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """Three versions of helpful, one a form of another, and one of verbosity; a preset, aliases."""
    path = tmp_path / "team.db"
    with tiny_registry.open_store(path) as store:
        data = {"sources": [{"source": "helpsteer2", "rows": 1234, "licence": "cc-by-4.0"}]}
        first = {"poles": poles(0.75), "data": data, "geometry": {"norm": 1.0}}
        tiny_registry.add(store, metadata=first, aliases=("help",), note="first try")
        second = {"poles": poles(0.975), "data": data, "geometry": {"norm": 2.5}}
        tiny_registry.add(store, values=(0.6, 0.8), metadata=second)
        tiny_registry.add(store, values=(0.6, 0.0), metadata=second, tags=("form-of/2",))
        tiny_registry.add(store, "verbosity", (0.0, 2.0))
        store.measure("helpful", 2, "range", RANGE, "100 prompts")
        store.set_alias("helpful", 1, "stable")
        store.set_alias("helpful", 2, "stable")
        store.save_preset("calm", [parse_term("helpful:.6")], "evening")
        store.save_preset("calm", [parse_term("helpful:.8"), parse_term("verbosity:-.3")])
    return path


def write(registry: Path, output: Path, **options: Any) -> dict[str, str]:
    """Write a report and return its pages."""
    done = write_report(Access(registry), output, **options)
    assert done.size == sum(path.stat().st_size for path in output.glob("*.html"))
    return {path.name: path.read_text("utf-8") for path in sorted(output.glob("*.html"))}


class Read(html.parser.HTMLParser):
    """A page as a browser takes it: its text in order, and what stands in its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._hidden = False
        self.feed(page)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._hidden = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def test_the_pages_say_what_the_registry_holds(registry: Path, tmp_path: Path) -> None:
    pages = write(registry, tmp_path / "site")
    assert list(pages) == ["axis-helpful.html", "axis-verbosity.html", "index.html"]
    index = Read(pages["index.html"]).text
    assert "team.db Preference vectors 2 axes 4 versions 1 base 1 preset" in index
    assert "helpful help helpful@2 stable org/small 97.5 / 97.5 % +0.625 3" in index
    assert "verbosity verbosity@1 org/small – – – 1" in index
    assert "helpful@2 words, change from the base" in index  # the chart's title
    # cos((.6, .8), (0, 2)) = .8
    assert "helpful@2 verbosity@1 helpful@2 1 0.80 verbosity@1 0.80 1" in index
    assert "calm@2 helpful:0.8 verbosity:-0.3 @1 was helpful:0.6 – 2026-03-01" in index

    assert "data helpsteer2 of helpful@2 cc-by-4.0 what verbosity@1 was made of not rec" in index

    page = Read(pages["axis-helpful.html"]).text
    assert "3 versions; the newest is helpful@2 on org/small" in page
    assert "positive pole 97.5% of 40 held-out pairs" in page
    assert "range of η −2 … 3" in page
    assert "Accuracy over versions held-out pairs" in page
    assert "helpful@1: 0.75 " in page  # a dot of that chart
    # cos((1, 0), (.6, .8)) = .6; the form (.6, 0) lies along (1, 0)
    assert "helpful@1 1 0.60 1.00 helpful@2 0.60 1 0.60 helpful@3 1.00 0.60 1" in page
    assert "stable moved to version 2 2026-03-01 14:00 stable set to version 1" in page
    assert "helpful@3 added, another form of helpful@2" in page
    assert "data helpsteer2 · 1,234 rows · cc-by-4.0" in page
    assert ("href", "axis-helpful.html#v2") in Read(pages["index.html"]).attributes


def test_equal_registries_give_equal_bytes(registry: Path, tmp_path: Path) -> None:
    first = write(registry, tmp_path / "one")
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.copy(registry, tmp_path / "elsewhere"))
    assert write(moved, tmp_path / "two") == first
    recipes = [(tmp_path / name / "prefreg.json").read_bytes() for name in ("one", "two")]
    assert recipes[0] == recipes[1]


def test_what_anybody_wrote_is_text_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "evil.db"
    home = "/home/somebody/models/<b>base<b>"
    with tiny_registry.open_store(path) as store:
        metadata = {
            "poles": {"positive": {"report": {EVIL: 1, "accuracy": 0.5}, "curve": [EVIL]}},
            "training": {"settings": {EVIL: EVIL}, "seed": EVIL},
            "plugin": {"distribution": EVIL, "version": EVIL},
            "data": {"sources": [{"source": EVIL, "licence": EVIL, "revision": EVIL}]},
        }
        made = tiny_registry.add(
            store, metadata=metadata, note=EVIL, on=tiny_registry.base(home, path=home)
        )
        store.measure("helpful", made.number, "range", RANGE | {"figure": EVIL}, EVIL)
        store.save_preset("calm", [parse_term("helpful:1")], EVIL)
    pages = write(path, tmp_path / "site")
    allowed = (
        "a b body code dd details div dl dt figcaption figure footer h1 h2 head header html li "
        "main meta ol p section small span style sub summary table tbody td th thead time title "
        "tr ul svg path text circle br"
    )
    for page in pages.values():
        read = Read(page)
        assert read.tags <= set(allowed.split())
        assert not [name for name, _ in read.attributes if name.startswith("on")]
        assert page.count("</style>") == 1
        assert "{{ 7 * 7 }}" in read.text  # as it was written
        assert "somebody" not in page  # a folder is nobody else's business
        assert "<b>base<b>" in read.text


def test_the_pages_ask_for_nothing(registry: Path, tmp_path: Path) -> None:
    for page in write(registry, tmp_path / "site").values():
        read = Read(page)
        links = [value for name, value in read.attributes if name in ("href", "src")]
        assert links
        assert all(re.fullmatch(r"([a-z-]+\.html)?(#v\d+)?", link) for link in links)
        assert not re.search(r"https?:|url\(|@import", page)
        assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in read.attributes


def test_only_what_prefreg_wrote_is_replaced(registry: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    write(registry, site)
    with pytest.raises(OutputError, match=r"site is not empty. .*`overwrite=`"):
        write(registry, site)
    write(registry, site, overwrite=True)
    (site / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'notes.txt', which was not composed"):
        write(registry, site, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "index.html").write_text("mine")
    with pytest.raises(OutputError, match=r"holds no prefreg.json of ours"):
        write(registry, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "index.html").read_text() == "mine"


def test_a_vector_that_is_damaged_spoils_one_table_alone(tmp_path: Path) -> None:
    with tiny_registry.open_store(tmp_path / "r.db", inline_limit=16) as store:
        tiny_registry.add(store)
        lost = store.vector_source(tiny_registry.add(store, "verbosity"))
        assert isinstance(lost, Path)
        lost.unlink()
    page = Read(write(tmp_path / "r.db", tmp_path / "site")["index.html"]).text
    assert "cannot be used: its file" in page
    assert "2 axes 2 versions" in page


def test_a_registry_without_a_version_has_a_site(tmp_path: Path) -> None:
    tiny_registry.open_store(tmp_path / "r.db").close()
    pages = write(tmp_path / "r.db", tmp_path / "site")
    assert "0 axes 0 versions" in Read(pages["index.html"]).text


_KEYS = (
    "poles positive report accuracy pairs curve step loss geometry norm cosine_poles data sources "
    "source rows audit training settings environment packages seconds total plugin distribution "
    "low high below above readings eta effect value figure goal base licence gated title origin"
)
_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_KEYS.split()), inner, max_size=6)
    ),
    max_leaves=30,
)


@settings(max_examples=25, phases=[Phase.explicit, Phase.generate])  # to shrink takes minutes
@given(
    metadata=st.dictionaries(st.sampled_from(_KEYS.split()), _DOCUMENTS),
    value=_DOCUMENTS.filter(lambda value: value is not None),
)
@example(metadata={"data": {"sources": [{"source": "\ud800"}]}}, value=0)
def test_any_document_can_be_shown(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Any], value: Any
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with tiny_registry.open_store(folder / "r.db") as store:
        tiny_registry.add(store, metadata=metadata)
        for kind in ("range", "calibration"):
            store.measure("helpful", 1, kind, value, "fuzz")
    assert len(write(folder / "r.db", folder / "site")) == 2


def test_a_chart_is_laid_out_to_scale() -> None:
    points = [Point(0, 0), Point(1, 5, 4, 6, "said"), Point(2, 10)]
    chart = Chart("t", "x", [Line("l", "a", points)], guides=[1.0])
    # 300 wide from 46 to 346, 162 high from 176 up to 14
    assert chart.drawn[0].path == "M46.0 176.0L196.0 95.0L346.0 14.0"
    assert chart.drawn[0].band == "M196.0 78.8L196.0 111.2"
    assert chart.drawn[0].dots[1] == (196.0, 95.0, "said")
    assert [label for _, label in chart.y_ticks] == ["0", "2.5", "5", "7.5", "10"]
    assert chart.marks == [196.0]
    assert chart.zero is None


@given(values=st.lists(st.floats(-1e12, 1e12, allow_subnormal=False), min_size=1, max_size=300))
def test_every_line_fits_its_picture(values: list[float]) -> None:
    points = [Point(float(place), value) for place, value in enumerate(values)]
    chart = Chart("t", "x", [Line("l", "a", points)])
    plot = chart.plot
    for x, y, _ in chart.drawn[0].dots:
        assert plot["left"] <= x <= plot["right"]
        assert plot["top"] <= y <= plot["bottom"]
    assert 1 <= len(chart.y_ticks) <= 8
    assert len(chart.drawn[0].dots) <= 121
    assert all(math.isfinite(x) for x, _ in chart.x_ticks)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("THE SITE WAS NOT TESTED: there is no Chromium (Debian: apt install chromium)")
    with browsing(program, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_from_a_folder(
    browser: Browser, registry: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    prefreg.open(registry).report(tmp_path / "site")
    browser.renew()
    browser.size(width, 900, dark=dark)
    browser.open((tmp_path / "site" / "index.html").as_uri())
    style = "getComputedStyle(document.body)"
    assert browser.run(f"{style}.backgroundColor") == (
        "rgb(22, 24, 27)" if dark else "rgb(250, 248, 244)"
    )
    for address in ("index.html", "axis-helpful.html"):
        browser.open((tmp_path / "site" / address).as_uri())
        assert browser.run("document.documentElement.scrollWidth") == width
        drawn = "document.querySelector('.line.a').getBoundingClientRect().width"
        assert browser.run(drawn) > 40
    assert browser.errors == []
