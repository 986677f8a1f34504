"""Calling qemu-img on images that may be hostile, where it can reach nothing but them.

Only an overlay's own new file is opened by name, which is absolute: QEMU takes a relative name with
a colon for a protocol ("nbd:", "json:").
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagekit.disk.extents import Change, Progress, opened, writable
from imagekit.errors import HostError, ImageError, ToolError
from imagekit.host.outfile import no_space, os_errors
from imagekit.host.program import Bounds, confined, given
from imagekit.host.run import run, spawn

_BOUNDS = Bounds(memory=2 << 30)
"""A hostile image cannot make qemu-img take more; OpenStack's limit of memory is 1 GiB."""
_PERCENT = re.compile(rb"\((\d+\.\d+)/100%\)")
DRIVERS = {"raw": "raw", "qcow2": "qcow2", "vhd": "vpc"}
"""QEMU's names of our formats: VHD is vpc (block/vpc.c)."""

_SECTOR = 512
_SAYS = 1 << 20
"""Bytes that are taken of what it says: it has a line for each cluster that it does not like."""
_MAP = 64 << 20
"""Bytes of a map: about 150 for each stretch, of which a disk of 64 KiB clusters may have many."""
_AT_ONCE, _MOST_AT_ONCE = 200, 64 << 20
"""Pieces, and bytes of them, that are written by one process."""
_CHECK_LEAKED = 3
"""qemu-img(1): check exits 3 for clusters that are counted but unused, which harms nobody."""


def convert(
    src: Path,
    dst: Path,
    *,
    source_format: str,
    target_format: str,
    options: Sequence[str] = (),
    size_bytes: int = 0,
    progress: Progress | None = None,
    base: tuple[Path, str] | None = None,
) -> None:
    """``qemu-img convert`` with both formats named; ``dst`` is overwritten.

    No file that ``src`` may name as its backing is opened: a qcow2 stands on ``base``, an image and
    its format, or on nothing. ``size_bytes`` is what ``progress`` is told as the total. Raises
    HostError when the disk is full, ImageError when the source cannot be read, ToolError.
    """
    follow = [] if progress is None else ["-p"]
    argv = ["qemu-img", "convert", *follow, "-O", target_format, *options]
    try:
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(opened(src))
            image, files = _alone(source, source_format), [source]
            if base is not None:
                files.append(stack.enter_context(opened(base[0])))
                backing = _node(files[-1], base[1])
                image = [_json({**_node(source, source_format), "backing": backing})]
            target = stack.enter_context(_target(dst))
            bounds = _BOUNDS
            if target_format == "raw" and size_bytes:
                bounds = replace(bounds, file_bytes=-(-size_bytes // _SECTOR) * _SECTOR)
            confine = _Confine(tuple(files), (target,), bounds)
            command = confine.command([*argv, *image, given(target)])
            if progress is None:
                what = f"writing {dst.name} as {target_format}"
                run(command, what=what, pass_fds=confine.files, output_limit=_SAYS)
            else:
                _run_with_progress(command, confine.files, size_bytes, progress)
    except ToolError as error:
        raise _explained(error, src, dst, source_format) from error


@contextlib.contextmanager
def _target(path: Path) -> Iterator[int]:
    """A descriptor of a file to write, which is made if there is none."""
    with os_errors(path), contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with writable(path) as fd:
        yield fd


@dataclass(frozen=True)
class _Confine:
    """What a qemu-img gets: open files to read and to write, and bounds."""

    readable: tuple[int, ...]
    writable: tuple[int, ...] = ()
    bounds: Bounds = _BOUNDS

    @property
    def files(self) -> tuple[int, ...]:
        return (*self.readable, *self.writable)

    def command(self, argv: list[str]) -> list[str]:
        return confined(argv, readable=self.readable, writable=self.writable, bounds=self.bounds)


def check(path: Path, image_format: str) -> None:
    """Raise ImageError unless ``qemu-img check`` finds the image's tables sound."""
    # Reading the tables of a sound image takes well under a second per GiB of file.
    timeout = 120 + path.stat().st_size / (100 << 20)
    with opened(path) as fd:
        argv = ["qemu-img", "check", *_alone(fd, image_format)]
        command = _Confine((fd,)).command(argv)
        try:
            done = run(command, check=False, timeout=timeout, pass_fds=(fd,), output_limit=_SAYS)
        except ToolError as error:
            what = f"its {image_format} tables cannot be checked: {error.what}"
            raise ImageError(what, where=str(path)) from error
    if done.returncode not in (0, _CHECK_LEAKED):
        text = (done.stderr + done.stdout).decode("utf-8", "backslashreplace")
        raise ImageError(
            f"its {image_format} tables are damaged: {_first_line(text, path)}",
            where=str(path),
            hint=f"qemu-img check -f {image_format} lists the damage",
        )


def measure(path: Path, image_format: str) -> int:
    """Bytes a fully written copy of the image's allocated data would take."""
    try:
        with opened(path) as fd:
            argv = ["qemu-img", "measure", "--output=json", "-O", "qcow2"]
            command = _Confine((fd,)).command([*argv, *_alone(fd, image_format)])
            what = "measuring the image"
            done = run(command, timeout=300, what=what, pass_fds=(fd,), output_limit=_SAYS)
        answer: Any = json.loads(done.stdout)
        return int(answer["required"])
    except (ToolError, ValueError, KeyError, TypeError) as error:
        raise ImageError(f"cannot be read as {image_format}: {error}", where=str(path)) from error


def read(path: Path, image_format: str, offset: int, length: int) -> bytes:
    """``length`` bytes of the guest's disk from ``offset`` on, both multiples of 512.

    Fewer at its end; none beyond it. The image may be in use. Raises ToolError.
    """
    with tempfile.TemporaryFile() as part, opened(path) as fd:
        argv = ["qemu-img", "dd", "-U", "-f", DRIVERS[image_format], "-O", "raw", "bs=512"]
        # count= counts what skip= passes over, too (qemu-img.c, img_dd).
        argv += [f"skip={offset // 512}", f"count={(offset + length) // 512}"]
        bounds = replace(_BOUNDS, file_bytes=length)
        confine = _Confine((fd,), (part.fileno(),), bounds)
        command = confine.command([*argv, f"if={given(fd)}", f"of={given(part.fileno())}"])
        run(command, timeout=60, pass_fds=confine.files, output_limit=_SAYS)
        return os.pread(part.fileno(), length, 0)


def make_overlay(base: Path, base_format: str, overlay: Path) -> None:
    """Make the qcow2 ``overlay``, a new file of its owner's alone, on ``base`` (raw or qcow2).

    Of ``base`` nothing is opened but itself, whatever its header says later. Raises HostError,
    ToolError; its output speaks of a lock when another program writes to ``base``.
    """
    with opened(base) as fd:
        command = _Confine((fd,)).command(
            ["qemu-img", "info", "--output=json", *_alone(fd, base_format)]
        )
        told = run(
            command, what="making an overlay", timeout=600, pass_fds=(fd,), output_limit=_SAYS
        )
        backing = _json({**_node(fd, base_format), "file": _file(fd, str(base.absolute()))})
    size = int(json.loads(told.stdout)["virtual-size"])
    with os_errors(overlay):
        os.close(os.open(overlay, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
    # -u: the size is known, and the image is not opened again by a program that is not confined.
    argv = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", base_format, "-b", backing]
    run([*argv, str(overlay.absolute()), str(size)], what="making an overlay", timeout=600)


def commit(overlay: Path, base: Path, base_format: str) -> None:
    """Write what the qcow2 ``overlay`` holds into ``base``; may be repeated. Raises ToolError.

    ``base`` is what it is put on here, not what the overlay's header names.
    """
    with writable(overlay) as top, writable(base) as below:
        node = {**_node(top, "qcow2"), "backing": _node(below, base_format)}
        confine = _Confine((), (top, below))
        command = confine.command(["qemu-img", "commit", "-q", "-d", _json(node)])
        what = "committing the changes"
        run(command, what=what, pass_fds=confine.files, output_limit=_SAYS)


def write(
    overlay: Path, base: tuple[Path, str] | None, pieces: Iterable[tuple[int, bytes]]
) -> None:
    """Write pieces (offset in bytes, content) into the qcow2 ``overlay``, which stands on ``base``,
    an image and its format, or on nothing. Raises ToolError.

    By qemu-io(1), which takes contents from files.
    """
    with contextlib.ExitStack() as stack:
        top = stack.enter_context(writable(overlay))
        node = _node(top, "qcow2")
        files = []
        if base is not None:
            files.append(stack.enter_context(opened(base[0])))
            node["backing"] = _node(files[0], base[1])
        for batch in _batches(pieces):
            _write_batch(_json(node), top, files, batch, f"writing into {overlay.name}")


def _batches(pieces: Iterable[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """The pieces, as many at once as one process gets."""
    batch: list[tuple[int, bytes]] = []
    for piece in pieces:
        batch.append(piece)
        if len(batch) == _AT_ONCE or sum(len(data) for _, data in batch) > _MOST_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_batch(
    node: str, top: int, files: list[int], batch: list[tuple[int, bytes]], what: str
) -> None:
    with contextlib.ExitStack() as stack:
        contents = []
        argv = ["qemu-io"]
        for offset, data in batch:
            content = stack.enter_context(tempfile.TemporaryFile())
            content.write(data)
            content.flush()
            contents.append(content.fileno())
            argv += ["-c", f"write -q -s {given(contents[-1])} {offset} {len(data)}"]
        confine = _Confine((*files, *contents), (top,))
        command = confine.command([*argv, node])
        done = run(command, what=what, timeout=600, pass_fds=confine.files, output_limit=_SAYS)
        # It ends with 0 whatever a command said, and a write that goes well says nothing.
        said = (done.stdout + done.stderr).decode("utf-8", "backslashreplace").strip()
        if said:
            raise ToolError(f"{what} failed", output=said, returncode=done.returncode)


def changes(overlay: Path, base: Path, base_format: str) -> list[Change]:
    """What the uncompressed qcow2 ``overlay`` holds itself, not its ``base`` (qemu-img(1), map).

    Raises ImageError, ToolError.
    """
    with opened(overlay) as top, opened(base) as below:
        node = {**_node(top, "qcow2"), "backing": _node(below, base_format)}
        command = _Confine((top, below)).command(["qemu-img", "map", "--output=json", _json(node)])
        what = "reading the map of the overlay"
        told = run(command, timeout=300, what=what, pass_fds=(top, below), output_limit=_MAP)
    try:
        return [
            Change(
                int(entry["start"]),
                int(entry["length"]),
                None if entry["zero"] else int(entry["offset"]),
            )
            for entry in json.loads(told.stdout)
            if entry["depth"] == 0 and (entry["data"] or entry["zero"])
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ImageError("has a map that cannot be read", where=str(overlay)) from error


def _by_name(name: str, image_format: str) -> list[str]:
    return ["-f", image_format, name]


def _alone(fd: int, image_format: str) -> list[str]:
    """Arguments that open the image and nothing that it names (QEMU's block layer, "backing")."""
    if image_format != "qcow2":
        return _by_name(given(fd), image_format)
    return [_json(_node(fd, image_format))]


def _node(fd: int, image_format: str) -> dict[str, Any]:
    """The open image by itself, as a node of QEMU's block layer (BlockdevOptions in its QMP)."""
    alone = {"backing": None} if image_format == "qcow2" else {}
    return {"driver": DRIVERS[image_format], **alone, "file": _file(fd, given(fd))}


def _file(fd: int, name: str) -> dict[str, Any]:
    driver = "host_device" if stat.S_ISBLK(os.fstat(fd).st_mode) else "file"
    return {"driver": driver, "filename": name}


def _json(node: dict[str, Any]) -> str:
    return "json:" + json.dumps(node)


def _first_line(text: str, path: Path) -> str:
    """What qemu-img says first, without the description of the image that it was given."""
    line = next(iter(text.splitlines()), "")
    line = re.sub(r'json:\{"driver".*?\}\}', path.name.replace("\\", "\\\\"), line)
    return line.replace(given(0)[:-1], f"{path.name} ")[:300]


def _run_with_progress(
    argv: list[str], files: tuple[int, ...], total: int, progress: Progress
) -> None:
    # The percentages are separated by carriage returns, so they are read as they come.
    with tempfile.TemporaryFile() as errors, spawn(argv, stderr=errors, pass_fds=files) as child:
        assert child.stdout is not None  # noqa: S101 - spawn makes a pipe of it
        while data := os.read(child.stdout.fileno(), 4096):
            for percent in _PERCENT.findall(data)[-1:]:
                progress(int(total * float(percent) / 100), total)
        returncode = child.wait()
        if returncode:
            errors.seek(0)
            output = errors.read(8192).decode("utf-8", "backslashreplace")
            raise ToolError("running qemu-img failed", output=output, returncode=returncode)


def _explained(
    error: ToolError, src: Path, dst: Path, source_format: str
) -> HostError | ImageError | ToolError:
    if "No space left" in error.output or "quota exceeded" in error.output:
        return no_space(dst)
    if error.returncode == 128 + signal.SIGXFSZ or "File too large" in error.output:
        return HostError(
            "the file would be larger than the file system or the file size limit allows",
            where=str(dst),
        )
    if source_format != "raw":
        line = _first_line(error.output, src) or error.what
        return ImageError(f"cannot be read as {source_format}: {line}", where=str(src))
    return error
