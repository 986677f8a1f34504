"""Errors in answers point into the user's own template."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.answers.context import Context, target_of
from imagekit.answers.origin import template_lines
from imagekit.answers.render import Kind, render
from imagekit.answers.validate import validate
from imagekit.errors import SpecError
from imagekit.installs.stages.answers import render_answers
from imagekit.spec.install import Iso
from imagekit.spec.load import load_spec
from imagekit.spec.model import Spec

SPEC = Spec.model_validate(
    {"name": "web01", "os": {"suite": "bookworm"}, "install": {"method": "iso", "iso": "/x.iso"}}
)


def context(kind: Kind = "preseed", release: str | None = None) -> Context:
    return Context(SPEC, target_of(kind, release, "bookworm", "debian"))


def located(template: Path, kind: Kind = "preseed") -> list[int]:
    return template_lines(kind, context(kind, "RHEL9"), template, render(kind, context(), template))


LEAF: list[Callable[[int], list[str]]] = [
    lambda n: [f"L{n} plain"],
    lambda n: [f"L{n} {{{{ hostname }}}} {{{{ 1 + 1 }}}}"],
    lambda n: [f"{{{{ 'L{n}' }}}} first {{# a remark #}}"],
    lambda n: [f"{{% set x = {n} %}}"],
    lambda n: ["{# a remark", f"of L{n}, two lines #}}"],
    lambda n: [""],
]
BLOCKS = [
    ("{% if hostname %}", "{% endif %}"),
    ("  {% for i in range(3) %}", "  {% endfor %}"),
    ("{% if not hostname %}\nL0 never\n{% else %}", "{% endif %}"),
]
trees = st.recursive(
    st.sampled_from(LEAF),
    lambda inner: st.tuples(st.sampled_from(BLOCKS), st.lists(inner, max_size=4)),
    max_leaves=25,
)


def written(tree: object, lines: list[str]) -> None:
    """Append a tree's lines, each knowing its own number."""
    if isinstance(tree, tuple):
        (opened, closed), inner = tree
        lines += opened.split("\n")
        for child in inner:
            written(child, lines)
        lines.append(closed)
    else:
        lines += tree(len(lines) + 1)  # type: ignore[operator]


@given(st.lists(trees, max_size=8))
@settings(max_examples=150, deadline=None)
def test_every_rendered_line_is_traced_to_its_line_of_the_template(found: list[object]) -> None:
    lines: list[str] = []
    for tree in found:
        written(tree, lines)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "t.j2"
        path.write_text("\n".join(lines) + "\n")
        text = render("preseed", context(), path)
        traced = template_lines("preseed", context(), path, text)
    for line, number in zip(text.splitlines(), traced, strict=False):
        if claim := re.match(r"L(\d+) ", line):
            assert number == int(claim[1])


def test_nothing_is_claimed_of_a_template_that_counts_its_own_text(tmp_path: Path) -> None:
    path = tmp_path / "t.j2"
    path.write_text("{% set text %}\nsome text\n{% endset %}\n{{ text | length }}\n")
    assert located(path) == []
    path.write_text("a private use character: \ue000\n")
    assert located(path) == []


def test_a_wrong_answer_in_a_loop_names_the_templates_line(tmp_path: Path) -> None:
    template = tmp_path / "own.cfg.j2"
    template.write_text(
        "# mine\n{% if hostname %}\nd-i netcfg/get_hostname string {{ hostname | preseed }}\n"
        "{% for i in range(2) %}\n\nd-i passwd/make-user boolean maybe\n{% endfor %}\n{% endif %}\n"
    )
    (tmp_path / "web01.yaml").write_text(
        "name: web01\nos: {suite: bookworm}\n"
        "install: {method: iso, iso: x.iso, template: own.cfg.j2}\n"
    )
    file = load_spec(tmp_path / "web01.yaml")
    assert isinstance(file.spec.install, Iso)
    with pytest.raises(SpecError) as caught:
        render_answers(file, file.spec.install, {})
    assert caught.value.where == f"{template}:6"


@pytest.mark.parametrize(
    ("kind", "text", "line"),
    [
        ("preseed", "{% if 1 %}\n# a\n{% endif %}\nd-i\n", 4),
        ("preseed", "{# a\nb #}\nd-i preseed/late_command string \\\n  if x; \\\n then\n", 3),
        ("kickstart", "{% set a = 1 %}\n{% set b = 1 %}\nlang en_US\nrootpww x\n", 4),
        ("autoinstall", "{% set a = 1 %}\nversion: 1\nidentity: {}\nlocal: x\n", 4),
        ("autoinstall", "{% set a = 1 %}\nversion: 1\nidentity: {}\nlocale: [\n", 4),
        (
            "autoinstall",
            "{% set a = 1 %}\nversion: 1\nidentity: {}\nlate-commands:\n- a\n- 'b\n\n  c'\n",
            6,
        ),
    ],
)
def test_each_format_names_the_line_of_the_template(
    tmp_path: Path, kind: Kind, text: str, line: int
) -> None:
    path = tmp_path / "t.j2"
    path.write_text(text)
    made = context(kind, "RHEL9" if kind == "kickstart" else None)
    rendered = render(kind, made, path)
    with pytest.raises(SpecError) as caught:
        validate(
            kind,
            rendered,
            target=made.target,
            where=str(path),
            lines=lambda: template_lines(kind, made, path, rendered),
        )
    assert caught.value.where == f"{path}:{line}", caught.value
