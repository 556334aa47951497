"""The tutorial is a way: each chapter says what one learns, and leads to the next."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial"
INDEX = (TUTORIAL / "index.md").read_text(encoding="utf-8")
CHAPTERS = re.findall(r"^\d+\. \[(.+)\]\((.+\.md)\)$", INDEX, re.MULTILINE)


def text_of(name: str) -> str:
    return (TUTORIAL / name).read_text(encoding="utf-8")


def test_every_page_is_a_chapter_once() -> None:
    names = [name for _, name in CHAPTERS]
    assert sorted(names) == sorted(path.name for path in TUTORIAL.glob("*.md") if path.name != "index.md")
    listed = INDEX.partition("```{toctree}")[2].split("```")[0].split()
    assert [f"{name}.md" for name in listed if not name.startswith(":")] == names


@pytest.mark.parametrize(("number", "title", "name"), [(n, *each) for n, each in enumerate(CHAPTERS, start=1)])
def test_a_chapter_has_its_number_and_says_what_one_learns(number: int, title: str, name: str) -> None:
    heading, _, rest = text_of(name).partition("\n\n")
    assert heading == f"# {number}. {title}"
    assert rest.startswith("*You learn ")


def test_each_page_leads_to_the_next() -> None:
    pages = ["index.md", *(name for _, name in CHAPTERS)]
    titles = {name: f"{number}. {title}" for number, (title, name) in enumerate(CHAPTERS, start=1)}
    for page, following in pairwise(pages):
        link = f"Next: [{titles[following]}]({following})"
        assert text_of(page).partition("\n```{toctree}")[0].rstrip().endswith(link), page
