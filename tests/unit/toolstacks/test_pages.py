"""The pages of the toolstacks: heads that are current, and commands that there are."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import typer.main
from oracles.builds import ROOT
from oracles.domain_facts import facts_for
from support.domains import machine

from imagekit.cli.main import make_app
from imagekit.toolstacks import pages
from imagekit.toolstacks.declaration import Toolstack
from imagekit.toolstacks.options import choices, chosen
from imagekit.toolstacks.registry import emitter_for, toolstack, toolstacks

GROUP: Any = typer.main.get_command(make_app(["config"]))
FLAGS = {flag for parameter in GROUP.commands["config"].params for flag in parameter.opts}
EVERY = [found.name for found in toolstacks()]


@dataclass(frozen=True)
class Sketched:
    """``colour`` is what it is drawn in; ``tools`` are what draws it."""

    colour: Literal["red", "blue"] | None = None
    tools: tuple[Literal["pen", "brush"], ...] = ()
    paper: str = "a4"
    framed: bool = True


SKETCH: Toolstack[Any] = Toolstack(
    name="sketch",
    gives="a drawing",
    suffix="sketch",
    page="docs/toolstacks/sketch.md",
    options=Sketched,
    emitter=lambda _options: emitter_for("xl"),
    netboots="convention",
    other_macs=lambda _options: "it draws its own",
)
HEAD = """\
| `--toolstack` | `sketch` |
|---|---|
| gives | a drawing |
| file of a build | `NAME.MODE.sketch` |
| more | none |
| netboots PV | yes, by what the toolstack hands to the program of itself |
| MAC addresses | it draws its own |

| `--option` | values | default |
|---|---|---|
| `colour` | `red`, `blue` | none |
| `tools` | `pen`, `brush`, with commas between them | none |
| `paper` | text | `a4` |
| `framed` | `true`, `false` | `true` |

`colour` is what it is drawn in; `tools` are what draws it.
"""


def page(name: str) -> str:
    return (ROOT / toolstack(name).page).read_text()


@pytest.mark.parametrize("name", EVERY)
def test_the_head_of_a_page_is_what_the_toolstack_says_of_itself(name: str) -> None:
    assert pages.head(toolstack(name)) in page(name), "run: python -m imagekit.toolstacks.pages"


@pytest.mark.parametrize("name", EVERY)
def test_a_page_tells_what_a_user_has_to_know(name: str) -> None:
    written = page(name).partition(pages.END)[2]
    headings = re.findall(r"(?m)^## (.*)$", written)
    assert headings[0] in ("Import and boot", "Upload and boot")
    assert headings[1:] == ["What it ignores or changes", "Tested with"]
    assert "MAC addresses" in written


@pytest.mark.parametrize("name", EVERY)
def test_the_commands_of_a_page_have_options_that_there_are(name: str) -> None:
    commands = re.findall(r"(?m)^    imagekit (config .*)$", page(name))
    assert commands
    for command in commands:
        words = shlex.split(command)
        assert words[words.index("--toolstack") + 1] == name
        flags = {word for word in words if word.startswith("-")}
        assert flags <= FLAGS, command
        assert flags & {"--define", "--import", "--upload"} <= {*toolstack(name).deliveries}
        pairs = [words[i + 1] for i, word in enumerate(words) if word == "--option"]
        chosen(toolstack(name), choices(pairs))


@pytest.mark.parametrize("name", sorted({*EVERY} - {"xva"}))
def test_a_page_names_files_that_are_written(name: str) -> None:
    domain = machine(name="web01")
    emitter = emitter_for(name)
    written = {*emitter.files(domain, facts_for(domain)), f"web01.pv.{toolstack(name).suffix}"}
    for found in re.findall(r"web01\.pv\.[\w.]*\w", page(name)):
        assert found in written, found


def test_a_head_is_made_of_the_declaration() -> None:
    text = f"# sketch\n\n{pages.BEGIN}old\n{pages.END}\nwords\n"
    made = pages.with_head(text, SKETCH)
    assert made == f"# sketch\n\n{pages.BEGIN}{HEAD}{pages.END}\nwords\n"
    assert pages.with_head(made, SKETCH) == made


@pytest.mark.parametrize("text", ["", pages.BEGIN, pages.END])
def test_a_page_without_a_head_is_not_overwritten(text: str) -> None:
    with pytest.raises(ValueError, match=r"sketch\.md has no head"):
        pages.with_head(text, SKETCH)


def test_every_page_is_of_a_toolstack() -> None:
    there = {f"docs/toolstacks/{path.name}" for path in (ROOT / "docs/toolstacks").iterdir()}
    assert there == {found.page for found in toolstacks()}
