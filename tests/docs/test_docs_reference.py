"""The reference names all that is public, with each parameter, default and error, in the section it belongs to."""

from __future__ import annotations

import ast
import asyncio
import enum
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import udpguard
import udpguard.testing

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
HEADING = re.compile(r"^(#+) (.+)$")
CODE = re.compile(r"`([^`]+)`")
# Made by others than users, so that their constructors are nobody's business.
MADE_BY_OTHERS = {
    "Client", "Discovery", "Endpoint", "EndpointOpener", "Expectation", "Host", "Session", "Sweep",
    "Outcome", "PeerStatistics", "Progress", "Reply", "SessionStatistics", "Statistics", "Unexpected", "NearMiss",
    "IcmpMessage", "Peer", "Request", "Datagram", "Event", "Icmp",
}  # fmt: skip
# Methods that udpguard calls itself. They are named, and no more is promised of them.
OWN = {
    "GuardProtocol": {"batch_received", "errors_received", "of"},
    "TransactionId": {"end", "reply_end", "request_key", "reply_key"},
    "Conditions": {"copies", "is_too_large"},
    "Host": {
        "add_address", "bind", "channel", "has", "listener", "move", "random", "random_bits", "remove", "source_for",
    },
    "Network": {
        "attach", "deliver", "detach", "give_link_local", "look_up", "next_arrival", "owner", "send",
    },
    "ReplayedNetwork": {"deliver", "inject", "inject_icmp", "next_arrival", "send"},
}  # fmt: skip


@dataclass(frozen=True)
class Public:
    """One public name, and what it stands for."""

    name: str
    value: Any
    page: str = ""

    def __str__(self) -> str:
        return f"{'testing.' if self.page else ''}{self.name}"


def sections(page: Path) -> Iterator[tuple[str, str]]:
    """Each heading of a page with all that is below it, up to the next one of its level or a higher one."""
    lines = page.read_text(encoding="utf-8").splitlines()
    heads = [(number, found) for number, line in enumerate(lines) if (found := HEADING.match(line))]
    for place, (number, found) in enumerate(heads):
        after = (other for other, one in heads[place + 1 :] if len(one[1]) <= len(found[1]))
        yield found[2].strip("`"), "\n".join(lines[number + 1 : next(after, len(lines))])


KIT_PAGE = "testing.md"
KIT = dict(sections(REFERENCE / KIT_PAGE))
MAIN = {
    title: text
    for page in sorted(REFERENCE.glob("*.md"))
    if page.name not in (KIT_PAGE, "index.md")
    for title, text in sections(page)
}
PUBLIC = [
    *(Public(name, getattr(udpguard, name)) for name in udpguard.__all__),
    *(Public(name, getattr(udpguard.testing, name), KIT_PAGE) for name in udpguard.testing.__all__),
]
CLASSES = [one for one in PUBLIC if inspect.isclass(one.value)]


def section(public: Public, of: str = "") -> str:
    """What the reference says of a name, or of one of its methods that has a section of its own."""
    text = (KIT if public.page else MAIN).get(of or public.name)
    assert text is not None, f"no section is headed `{of or public.name}`"
    return text


def own_part(text: str) -> str:
    """A section without those inside of it."""
    return re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]


def bullets(text: str) -> list[str]:
    return [item.replace("\n  ", " ") for item in re.findall(r"^- (.+(?:\n  .+)*)", text, re.MULTILINE)]


def told(text: str) -> set[str]:
    """The names that bullets begin with: "- `a`, `b` (seconds): …" has two."""
    found: set[str] = set()
    for item in bullets(text):
        head = re.match(r"(?:`[^`]+`(?:,| and)? ?)+", item)
        found.update(CODE.findall(head[0]) if head else [])
    return found


def rendered(function: Callable[..., object], name: str) -> str:
    """A signature as the pages print it: without annotations, self, and spaces."""
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name in ("self", "cls"):
        del parameters[0]
    parts: list[str] = []
    for parameter in parameters:
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        if parameter.kind is parameter.KEYWORD_ONLY and not any(part.startswith("*") for part in parts):
            parts.append("*")
        default = "" if parameter.default is parameter.empty else f"={shown(parameter.default)}"
        parts.append(f"{stars}{parameter.name}{default}")
    waits = "await" if inspect.iscoroutinefunction(function) else ""
    return f"{waits}{name}({','.join(parts)})"


def shown(default: object) -> str:
    if isinstance(default, enum.IntEnum):
        return default.name
    if inspect.isfunction(default):
        return default.__name__
    if isinstance(default, (udpguard.Limits, udpguard.Ports)):
        assert default == type(default)()
        return f"{type(default).__name__}()"
    return repr(default)


def bare(text: str) -> str:
    return re.sub(r"\s", "", text).replace(",)", ")").replace('"', "'")


def parameters(function: Callable[..., object]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def check_signature(text: str, function: Callable[..., object], name: str) -> None:
    """The signature is printed, and each parameter begins a bullet."""
    printed = re.findall(r"^```text\n(.*?)^```", own_part(text), re.MULTILINE | re.DOTALL)
    assert rendered(function, name) in map(bare, printed), rendered(function, name)
    missing = [parameter for parameter in parameters(function) if parameter not in told(own_part(text))]
    assert not missing


def members(kind: type) -> Iterator[tuple[str, object]]:
    """What is public of a class and its own: not what it has of the standard library, or of a public base."""
    if issubclass(kind, enum.Enum):
        yield from kind.__members__.items()
        return
    for name in dir(kind):
        owner = next(base for base in kind.__mro__ if name in vars(base))
        if name.startswith("_") or owner.__module__.split(".")[0] != "udpguard":
            continue
        if owner is not kind and owner.__name__ in (*udpguard.__all__, *udpguard.testing.__all__):
            continue
        if issubclass(kind, (asyncio.DatagramProtocol, asyncio.AbstractEventLoop)) and any(
            hasattr(base, name)
            for base in (asyncio.DatagramProtocol, asyncio.AbstractEventLoop)
            if issubclass(kind, base)
        ):
            continue
        yield name, inspect.getattr_static(kind, name)
    for name in fields(kind):
        if not hasattr(kind, name):
            yield name, None


def fields(kind: type) -> Iterator[str]:
    """The attributes that instances are given: fields, and what `__init__` sets."""
    for base in kind.__mro__:
        if base.__module__.split(".")[0] == "udpguard":
            yield from (name for name in vars(base).get("__annotations__", {}) if not name.startswith("_"))
    if "__init__" in vars(kind) and inspect.isfunction(kind.__init__):
        try:
            source = inspect.getsource(kind.__init__)
        except OSError:  # a dataclass has made it
            return
        yield from dict.fromkeys(re.findall(r"^ +self\.([a-z]\w*)(?:: [^=]+)? = ", source, re.MULTILINE))


def plain(member: object) -> Callable[..., object] | None:
    value = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
    return value if inspect.isfunction(value) else None


def raised(docstring: str | None) -> list[str]:
    """The errors that a docstring's "Raises" names."""
    block = re.search(r"^Raises:\n((?:    .*\n?|\n)+)", inspect.cleandoc(docstring or ""), re.MULTILINE)
    return (
        re.findall(r"^    ([\w.]*Error|socket\.gaierror):|(?<=; )(\w+Error):", block[1], re.MULTILINE) if block else []
    )


def test_raises_are_found() -> None:
    found = [a or b for a, b in raised(udpguard.Client.sweep.__doc__)]
    assert found == ["TypeError", "ValueError"]
    assert ("socket.gaierror", "") in raised(udpguard.Client.request.__doc__)


@pytest.mark.parametrize("public", PUBLIC, ids=str)
def test_each_public_name_has_a_section(public: Public) -> None:
    assert len(section(public).split()) > 3


@pytest.mark.parametrize("public", [one for one in PUBLIC if inspect.isfunction(one.value)], ids=str)
def test_each_function_is_printed_with_its_parameters(public: Public) -> None:
    check_signature(section(public), public.value, public.name)


def is_for_users_to_call(public: Public) -> bool:
    kind = public.value
    return not (public.name in MADE_BY_OTHERS or issubclass(kind, (enum.Enum, dict)) or inspect.isabstract(kind))


@pytest.mark.parametrize("public", [one for one in CLASSES if is_for_users_to_call(one)], ids=str)
def test_each_constructor_is_printed_with_its_parameters(public: Public) -> None:
    kind = public.value
    if issubclass(kind, BaseException):
        if "__init__" in vars(kind):
            assert not set(parameters(kind.__init__)) - told(section(public)) - {"message"}
        return
    check_signature(section(public), kind.__init__, public.name)


@pytest.mark.parametrize("public", CLASSES, ids=str)
def test_each_member_is_told_of(public: Public) -> None:
    kind, whole = public.value, section(public)
    named, of_own = told(whole), OWN.get(public.name, set())
    spans = {bare(span) for span in named}
    missing = []
    for name, member in members(kind):
        function = plain(member)
        if name in of_own:
            fine = f"`{name}`" in whole
        elif function is None:
            fine = name in named or f"`{name}`" in whole
        elif (own := (KIT if public.page else MAIN).get(f"{public.name}.{name}")) is not None:
            check_signature(own, function, name)
            fine = True
        else:
            fine = is_told(whole, function, name, public.name, spans)
        if not fine:
            missing.append(name)
    assert not missing


def is_told(whole: str, function: Callable[..., object], name: str, owner: str, spans: set[str]) -> bool:
    """Whether a bullet begins with the method's signature, and tells of each of its parameters."""
    signature = rendered(function, name)
    known = next((one for one in (signature, f"{owner}.{signature}") if one in spans), None)
    if known is None:
        return False
    item = next(item for item in bullets(whole) if bare(CODE.findall(item)[0]) == known)
    return all(f"`{parameter}`" in item for parameter in parameters(function))


@pytest.mark.parametrize("public", PUBLIC, ids=str)
def test_each_error_that_a_docstring_names_is_told_of(public: Public) -> None:
    whole = section(public)
    missing = []
    if inspect.isfunction(public.value):
        missing = [error for pair in raised(public.value.__doc__) for error in pair if error and error not in whole]
    elif inspect.isclass(public.value):
        for name, member in [("", public.value), *members(public.value)]:
            if name in OWN.get(public.name, ()):
                continue
            about = (KIT if public.page else MAIN).get(f"{public.name}.{name}", whole)
            docstring = getattr(member, "__doc__", None)
            missing += [
                f"{name}: {error}" for pair in raised(docstring) for error in pair if error and error not in about
            ]
    assert not missing


def test_each_variable_that_the_code_reads_is_told_of() -> None:
    text = (REFERENCE / "environment.md").read_text(encoding="utf-8")
    code = "\n".join(path.read_text(encoding="utf-8") for path in Path(udpguard.__file__).parent.rglob("*.py"))
    read = set(re.findall(r'"(UDPGUARD_\w+)"', code))
    assert read
    assert not {name for name in read if f"## `{name}`" not in text}
    assert not re.findall(r"environ(?:\.get)?[\[(]\"(?!UDPGUARD_)(\w+)", code)


def test_each_logger_is_told_of() -> None:
    text = (REFERENCE / "logging.md").read_text(encoding="utf-8")
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in Path(udpguard.__file__).parent.rglob("*.py")]
    names = {
        ast.unparse(node.args[0])
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger"
    }
    assert names == {"'udpguard'"}
    assert "`udpguard`" in text


def test_each_page_is_in_the_index() -> None:
    text = (REFERENCE / "index.md").read_text(encoding="utf-8")
    listed = re.search(r"```{toctree}\n.*?\n\n(.*?)```", text, re.DOTALL)
    assert listed
    assert set(listed[1].split()) == {page.stem for page in REFERENCE.glob("*.md")} - {"index"}
    missing = [name for name in udpguard.__all__ if not name.endswith("Error") and f"`{name}`" not in text]
    assert not missing
