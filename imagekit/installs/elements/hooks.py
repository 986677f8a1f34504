"""The hooks directory that dib-run-parts works in, and what scripts outside the tree add to it.

disk-image-create copies all elements into one directory (``generate_hooks`` of its library);
elements reach their neighbours' files there as ``$(dirname $0)/../bin``. The directory is made
afresh for every stage, so that it holds the elements as they are now; what earlier stages changed
in it is carried along as a difference.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from imagekit.errors import ImageError, SpecError
from imagekit.host.sandbox.box import SUDO
from imagekit.installs.elements import content
from imagekit.installs.elements.catalogue import Element, library_path

TRACE = ".imagekit-trace"
PROGRAMS = ".imagekit-programs"
# Bash reads the file that BASH_ENV names before every script (bash(1)); descriptor 9 is the log.
TRACE_TEXT = """\
set -E
trap 'printf "imagekit-trace %s:%s: %s\\n" "${BASH_SOURCE[0]:-$0}" "$LINENO" \
"$BASH_COMMAND" 2>/dev/null >&9' ERR
"""
MAX_DIFFERENCE = 256 << 20


def stage_elements(elements: Sequence[Element], target: Path) -> None:
    """Copy the elements below ``target``, each under its name: the sandbox's ELEMENTS_PATH."""
    for element in elements:
        (target / element.name).mkdir()
        for entry in content.entries(element.path):
            content.copy(element.path, entry, target / element.name / entry.name)


def generate(elements: Sequence[Element], hooks: Path) -> None:
    """Fill the empty directory ``hooks``; raises SpecError for two scripts of one name."""
    for element in elements:
        for entry in content.entries(element.path, ignore_below=False):
            inside = hooks / entry.name
            if entry.kind != "directory" and entry.name.count("/") == 1 and inside.is_file():
                raise SpecError(
                    f"two elements have a {entry.name}, one of them {element.name}",
                    hint="rename one: diskimage-builder keeps all hooks in one directory",
                )
            content.copy(element.path, entry, inside)
    shutil.copy2(library_path("lib") / "dib-run-parts", hooks / "dib-run-parts")
    (hooks / TRACE).write_text(TRACE_TEXT)
    # Last in the tree's PATH: many elements call sudo, which minimal systems lack.
    (hooks / PROGRAMS).mkdir()
    (hooks / PROGRAMS / "sudo").write_bytes(SUDO.read_bytes())
    (hooks / PROGRAMS / "sudo").chmod(0o755)


def snapshot(hooks: Path) -> dict[str, tuple[object, ...]]:
    """What tells a changed file of ``hooks`` from an unchanged one, by relative path."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, folders, names in os.walk(hooks):
        for name in (*folders, *names):
            path = Path(directory, name)
            status = path.lstat()
            link = str(path.readlink()) if path.is_symlink() else ""
            mark = (link, status.st_mode) if path.is_symlink() or path.is_dir() else ()
            found[str(path.relative_to(hooks))] = mark or (
                status.st_mode,
                status.st_size,
                status.st_mtime_ns,
                status.st_ino,
            )
    return found


def save_difference(
    hooks: Path, before: dict[str, tuple[object, ...]], earlier: bytes, target: Path
) -> None:
    """Write to the tar file ``target`` what changed since ``before``, on top of ``earlier``."""
    after = snapshot(hooks)
    changed = {name for name, mark in after.items() if before.get(name) != mark}
    with tarfile.open(fileobj=io.BytesIO(earlier)) as old:
        changed |= {name for name in old.getnames() if name in after}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(changed):
            path = hooks / name
            if path.is_symlink() or path.is_file() or path.is_dir():
                tar.add(path, arcname=name, recursive=False)


def no_difference() -> bytes:
    """A difference that holds nothing, as a tar file."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w"):
        pass
    return data.getvalue()


def apply_difference(hooks: Path, difference: bytes) -> None:
    """Bring a difference of earlier stages into freshly generated ``hooks``."""
    if len(difference) > MAX_DIFFERENCE:
        raise ImageError("elements left more than 256 MiB in their hooks directory")
    with tarfile.open(fileobj=io.BytesIO(difference)) as tar:
        for member in tar:
            _restore(tar, member, hooks)


def _restore(tar: tarfile.TarFile, member: tarfile.TarInfo, hooks: Path) -> None:
    parts = [p for p in member.name.split("/") if p not in ("", ".")]
    if not parts or ".." in parts:
        raise ImageError(f"the stored hooks name {member.name}, which is no path inside them")
    parent = hooks
    for part in parts[:-1]:
        parent = parent / part
        if parent.is_symlink() or not parent.is_dir():
            raise ImageError(
                f"the stored hooks lead through {member.name}, which is not a directory"
            )
    target = parent / parts[-1]
    if target.is_symlink() or target.is_file():
        target.unlink()
    if member.issym():
        target.symlink_to(member.linkname)
    elif member.isdir():
        target.mkdir(exist_ok=True)
        target.chmod(member.mode & 0o777)
    elif (source := tar.extractfile(member)) is not None:
        target.write_bytes(source.read())
        target.chmod(member.mode & 0o777)
