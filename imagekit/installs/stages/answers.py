"""The answers of an installation, rendered from the spec and checked."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from imagekit.answers.context import Context, mirror_of, target_of
from imagekit.answers.origin import template_lines
from imagekit.answers.render import Kind, render, shipped_template
from imagekit.answers.validate import validate
from imagekit.errors import SpecError
from imagekit.host.apt_sources import canonical_archive
from imagekit.installs.context import BuildContext
from imagekit.pipeline.stage import Stage, StageRun, digest_file
from imagekit.spec.derived import mac_of
from imagekit.spec.install import Iso, Netboot
from imagekit.spec.load import SpecFile


def render_answers(
    file: SpecFile, install: Iso | Netboot, secrets: Mapping[str, str]
) -> tuple[str, list[str]]:
    """The answers file of a spec, and what is doubtful in it. Raises SpecError with the place.

    ``secrets`` are crypt hashes by account name.
    """
    kind: Kind = install.answers
    spec = file.spec
    template = file.resolve(install.template) if install.template else None
    if template is not None and not template.is_file():
        raise SpecError(f"there is no template {template}", where=file.where("install", "template"))
    try:
        target = target_of(kind, install.release, spec.os.suite, spec.os.distribution)
    except SpecError as error:
        error.where = file.where("install", "release")
        raise
    context = Context(
        spec,
        target,
        tuple(install.packages),
        secrets,
        mirror_of(_mirror(file, kind)),
        mac_of(spec, 0) if spec.nics else "",
    )
    text = render(kind, context, template)
    where = str(template or shipped_template(kind))

    def lines() -> list[int]:
        return template_lines(kind, context, template, text)

    return text, validate(kind, text, target=target, where=where, lines=lines)


def template_digests(file: SpecFile, install: Iso | Netboot) -> dict[str, str]:
    """SHA-256 of the template that the answers are made from, by name, for locks.

    Raises SpecError when it is not there.
    """
    if install.template is None:
        path = shipped_template(install.answers)
        return {f"{path.parent.name}/{path.name}": digest_file(path)}
    path = file.resolve(install.template)
    if not path.is_file():
        raise SpecError(f"there is no template {path}", where=file.where("install", "template"))
    return {install.template: digest_file(path)}


def _mirror(file: SpecFile, kind: Kind) -> str | None:
    """The spec's mirror; for Debian's installer else the distribution's: it has to be told one,
    and the guest keeps it, so that it is not this host's.
    """
    os_ = file.spec.os
    if os_.mirror or kind != "preseed":
        return os_.mirror
    return canonical_archive(os_.distribution, os_.suite).mirror


class Answers(Stage):
    """Renders and checks the answers while planning, so that a wrong spec fails at once."""

    name: ClassVar[str] = "answers"
    title: ClassVar[str] = "writing the installer's answers"
    makes = ("answers",)

    def __init__(self, context: BuildContext, install: Iso | Netboot) -> None:
        self._context = context
        self._install = install

    @functools.cached_property
    def _rendered(self) -> tuple[str, list[str]]:
        """The answers and what is doubtful in them: the template is read once."""
        context = self._context
        return render_answers(context.file, self._install, context.secrets)

    def check(self) -> None:
        _ = self._rendered

    def key(self) -> Mapping[str, Any]:
        return {"text": hashlib.sha256(self._rendered[0].encode()).hexdigest()}

    def run(self, run: StageRun) -> None:
        self._context.hide_secrets(run.workspace.events)
        text, warnings = self._rendered
        for warning in warnings:
            run.note(warning)
        path: Path = run.output / "answers"
        path.touch(mode=0o600)
        path.write_text(text)
