"""Wrong inputs of every kind: what is said of each, word for word, and that nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from support.wrong_inputs import SPEC, contents, cut_off_kernel, run

from imagekit.spec.yamltext import yaml_reader

TABLE = Path(__file__).with_suffix(".yaml")


class Case(BaseModel):
    """A row of the table.

    ``add`` is put after a good spec, ``instead`` (old, new) replaces text in it, and ``spec`` is a
    whole one. ``files`` lie beside it, ``says`` is all that is printed.
    """

    model_config = ConfigDict(extra="forbid")

    case: str
    run: Annotated[list[str], Field(min_length=1)] = ["build", "guest.yaml", "-o", "out"]
    add: str = ""
    instead: tuple[str, str] = ("", "")
    spec: str | None = None
    files: dict[str, str] = {}
    exit: int = 3
    says: str


CASES = TypeAdapter(list[Case]).validate_python(yaml_reader().load(TABLE.read_text()))


def test_the_table_is_as_large_as_promised() -> None:
    assert len({case.case for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=[case.case for case in CASES])
def test_a_wrong_input_is_told_word_for_word_and_writes_nothing(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    assert case.instead[0] in SPEC
    text = SPEC.replace(*case.instead) + case.add if case.spec is None else case.spec
    files = {"guest.yaml": text, **case.files}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "cut.bzImage").write_bytes(cut_off_kernel())
    before = contents(tmp_path)
    said = run(case.run, tmp_path)
    assert said.message == case.says.rstrip("\n")
    assert said.exit_code == case.exit
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()
