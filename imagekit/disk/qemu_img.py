"""Calling qemu-img on images that may be hostile.

Paths are made absolute: QEMU takes a relative name with a colon for a protocol ("nbd:", "json:").
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagekit.disk.extents import Progress
from imagekit.errors import HostError, ImageError, ToolError
from imagekit.host.outfile import no_space, os_errors
from imagekit.host.run import run, spawn

_MEMORY = 2 << 30
"""Bytes of address space; a hostile image cannot make qemu-img take more. OpenStack uses 1 GiB."""
_PERCENT = re.compile(rb"\((\d+\.\d+)/100%\)")
DRIVERS = {"raw": "raw", "qcow2": "qcow2", "vhd": "vpc"}
"""QEMU's names of our formats."""

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
    with_backing: bool = False,
) -> None:
    """``qemu-img convert`` with both formats named; ``dst`` is overwritten.

    No file that ``src`` may name as its backing is opened, unless ``with_backing``: then the whole
    chain has to be trusted. ``size_bytes`` is what ``progress`` is told as the total. Raises
    HostError when the disk is full, ImageError when the source cannot be read, ToolError.
    """
    source = _by_name(src, source_format) if with_backing else _alone(src, source_format)
    argv = ["qemu-img", "convert", "-O", target_format, *options, *source, str(dst.absolute())]
    try:
        if progress is None:
            run(_limited(argv), what=f"writing the image as {target_format}")
        else:
            argv.insert(2, "-p")
            _run_with_progress(_limited(argv), size_bytes, progress)
    except ToolError as error:
        raise _explained(error, src, dst, source_format) from error


def check(path: Path, image_format: str) -> None:
    """Raise ImageError unless ``qemu-img check`` finds the image's tables sound."""
    # Reading the tables of a sound image takes well under a second per GiB of file.
    timeout = 120 + path.stat().st_size / (100 << 20)
    argv = ["qemu-img", "check", *_alone(path, image_format)]
    done = run(_limited(argv), check=False, timeout=timeout)
    if done.returncode not in (0, _CHECK_LEAKED):
        text = (done.stderr + done.stdout).decode("utf-8", "backslashreplace")
        raise ImageError(
            f"its {image_format} tables are damaged: {_first_line(text, path)}",
            where=str(path),
            hint=f"qemu-img check -f {image_format} lists the damage",
        )


def measure(path: Path, image_format: str) -> int:
    """Bytes a fully written copy of the image's allocated data would take."""
    argv = ["qemu-img", "measure", "--output=json", "-O", "qcow2", *_alone(path, image_format)]
    try:
        done = run(_limited(argv), timeout=300, what="measuring the image")
        answer: Any = json.loads(done.stdout)
        return int(answer["required"])
    except (ToolError, ValueError, KeyError, TypeError) as error:
        raise ImageError(f"cannot be read as {image_format}: {error}", where=str(path)) from error


def read(path: Path, image_format: str, offset: int, length: int) -> bytes:
    """``length`` bytes of the guest's disk from ``offset`` on, both multiples of 512.

    Fewer at its end; none beyond it. The image may be in use. Raises ToolError.
    """
    with tempfile.NamedTemporaryFile() as part:
        argv = ["qemu-img", "dd", "-U", "-f", DRIVERS[image_format], "-O", "raw", "bs=512"]
        # count= counts what skip= passes over, too (qemu-img.c, img_dd).
        argv += [f"skip={offset // 512}", f"count={(offset + length) // 512}"]
        run(_limited([*argv, f"if={path.absolute()}", f"of={part.name}"]), timeout=60)
        return Path(part.name).read_bytes()[:length]


def make_overlay(base: Path, base_format: str, overlay: Path) -> None:
    """Make the qcow2 ``overlay``, a new file of its owner's alone, on ``base`` (raw or qcow2).

    Of ``base`` nothing is opened but itself, whatever its header says later. Raises HostError,
    ToolError.
    """
    with os_errors(overlay):
        os.close(os.open(overlay, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
    backing = _json(_node(base, base_format))
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", base_format, "-b", backing]
    run(_limited([*argv, str(overlay.absolute())]), what="making an overlay", timeout=600)


def commit(overlay: Path, base: Path, base_format: str) -> None:
    """Write what the qcow2 ``overlay`` holds into ``base``; may be repeated. Raises ToolError.

    ``base`` is what it is put on here, not what the overlay's header names.
    """
    node = {**_node(overlay, "qcow2"), "backing": _node(base, base_format)}
    run(_limited(["qemu-img", "commit", "-q", "-d", _json(node)]), what="committing the changes")


def _by_name(path: Path, image_format: str) -> list[str]:
    return ["-f", image_format, str(path.absolute())]


def _alone(path: Path, image_format: str) -> list[str]:
    """Arguments that open the image and nothing that it names (QEMU's block layer, "backing")."""
    if image_format != "qcow2":
        return _by_name(path, image_format)
    return [_json(_node(path, image_format))]


def _node(path: Path, image_format: str) -> dict[str, Any]:
    """The image by itself, as a node of QEMU's block layer (BlockdevOptions in its QMP)."""
    driver = "host_device" if path.is_block_device() else "file"
    file = {"driver": driver, "filename": str(path.absolute())}
    alone = {"backing": None} if image_format == "qcow2" else {}
    return {"driver": image_format, **alone, "file": file}


def _json(node: dict[str, Any]) -> str:
    return "json:" + json.dumps(node)


def _first_line(text: str, path: Path) -> str:
    """What qemu-img says first, without the description of the image that it was given."""
    line = next(iter(text.splitlines()), "")
    return line.replace(_alone(path, "qcow2")[-1], path.name)[:300]


def _limited(argv: list[str]) -> list[str]:
    return ["prlimit", f"--as={_MEMORY}", "--", *argv]


def _run_with_progress(argv: list[str], total: int, progress: Progress) -> None:
    # The percentages are separated by carriage returns, so they are read as they come.
    with tempfile.TemporaryFile() as errors, spawn(argv, stderr=errors) as child:
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
    # 25 is SIGXFSZ: the file size limit of this process.
    if error.returncode == -25 or "File too large" in error.output:
        return HostError(
            "the file would be larger than the file system or the file size limit allows",
            where=str(dst),
        )
    if source_format != "raw":
        line = _first_line(error.output, src) or error.what
        return ImageError(f"cannot be read as {source_format}: {line}", where=str(src))
    return error
