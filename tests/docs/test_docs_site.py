"""The site builds without a warning, and each of its links and pictures leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
PROGRAM = re.compile(r"^```python.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
# What a browser shows without scrolling: characters of a program on a desktop, CSS pixels of a table on a phone.
WIDEST = 88
PHONE = 364
LETTER = 7.7  # pixels, in a table on a phone, about
PADDING = 7.4  # of a column, with its border

pytest.importorskip("sphinx")
pytest.importorskip("furo")
pytest.importorskip("myst_parser")
pytest.importorskip("sphinx_copybutton")


class Page(HTMLParser):
    """What a page links to, and what of it can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.anchors: set[str] = {"", "top"}
        self.pictures: list[tuple[str, str]] = []
        self.title = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "title" and not self.title:
            self.title = data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            found = dict(attrs)
            self.pictures.append((found.get("class") or "", found.get("src") or ""))
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.add(value)
                if name == "src" or tag == "link":
                    self.fetched.add(value)
            elif name == "id" and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-n"]
    done = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), str(ROOT / "docs"), str(folder / "html")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return folder / "html"


def test_each_link_leads_somewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 5
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                broken.append(f"{path.relative_to(site)}: {link}: no such heading")
    assert not broken


def test_the_site_needs_no_other_host(site: Path) -> None:
    """It can be read without a network: no font, script or picture is fetched from elsewhere."""
    for path in site.rglob("*.html"):
        assert not {link for link in Page(path).fetched if urlsplit(link).netloc}, path


def test_each_page_has_a_title_of_its_own(site: Path) -> None:
    titles = [Page(path).title for path in site.rglob("*.html")]
    assert all(titles)
    assert len(titles) == len(set(titles))


def test_each_picture_has_one_for_light_pages_and_one_for_dark_ones(site: Path) -> None:
    shown = 0
    for path in site.rglob("*.html"):
        pictures = Page(path).pictures
        for (light, source), (dark, twin) in zip(pictures[::2], pictures[1::2], strict=True):
            assert "only-light" in light, source
            assert "only-dark" in dark, twin
            assert twin == source.replace(".svg", ".dark.svg")
            shown += 1
    assert shown > 5


def test_search_knows_what_people_look_for(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for stem in ("timeout", "retri", "spoof", "hostnam", "snmp", "packet", "latenc", "broadcast"):
        assert f'"{stem}":' in index or f",{stem}:" in index or f"{{{stem}:" in index, stem


def test_programs_fit_a_desktop() -> None:
    wide = [
        f"{path.name}: {line}"
        for path in PAGES
        for code in PROGRAM.findall(path.read_text(encoding="utf-8"))
        for line in code.splitlines()
        if len(line) > WIDEST
    ]
    assert not wide


def narrowest(table: str) -> float:
    """How many pixels a table takes at least: in each column the longest word can't be broken, unless it is code."""
    rows = [line.strip().strip("|").split("|") for line in table.splitlines()]
    return sum(LETTER * max(map(longest_word, column)) + PADDING for column in zip(*rows, strict=True))


def longest_word(cell: str) -> int:
    words = re.sub(r"`[^`]*`|\]\([^)]*\)|[-*]", " ", cell).split()
    return max(map(len, words), default=0)


def test_tables_fit_a_phone() -> None:
    tables = {(path, table) for path in PAGES for table in TABLE.findall(path.read_text(encoding="utf-8"))}
    assert len(tables) > 10
    wide = [f"{path.name}: {narrowest(table):.0f}: {table[:60]}" for path, table in tables if narrowest(table) > PHONE]
    assert not wide
