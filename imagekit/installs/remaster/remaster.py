"""An installer ISO remastered: answers put in, the boot menu starting by itself, all else kept.

pycdlib reads the source. It does not write the result: it drops the GPT and Apple partition map of
hybrid ISOs, so that they would no longer boot from USB. xorriso replays the source's whole boot
equipment (MBR, GPT, APM, El Torito) around the changed files (xorriso(1), -boot_image any replay).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagekit.answers.render import Kind
from imagekit.disk.extents import opened
from imagekit.disk.isoread import UEFI, Iso, read_iso
from imagekit.errors import ImageError, SpecError
from imagekit.host.outfile import check_target, replacing
from imagekit.host.program import SHOWN, confined, given
from imagekit.host.run import run
from imagekit.installs.remaster import cpio, esp, menus
from imagekit.installs.remaster.families import family_of, placement
from imagekit.installs.remaster.reading import entries as read_entries

MAX_MENU = 1 << 20
_ISOLINUX = re.compile(r".*/(isolinux|syslinux|extlinux|txt|gtk|adtxt|menu|live|install)\.cfg")
_GRUB = re.compile(
    r"/boot/grub2?/(grub|loopback)\.cfg|/EFI/[^/]+/(grub\.cfg|BOOT\.conf)", re.IGNORECASE
)
_MAIN = re.compile(r".*/(isolinux|syslinux)\.cfg")


@dataclass(frozen=True)
class Remastered:
    """What was made: kind of answers, the kernel's arguments per menu, paths that changed."""

    path: Path
    kind: Kind
    volume_id: str
    arguments: Mapping[str, str]
    kernel: str
    initrd: str
    changed: tuple[str, ...]


def remaster(
    source: Path,
    target: Path,
    answers: str,
    *,
    scratch: Path,
    kind: Kind | None = None,
    release: str = "",
    extra_args: Sequence[str] = (),
    overwrite: bool = False,
) -> Remastered:
    """Write ``target``, an ISO that installs by ``answers`` without a key press.

    ``scratch`` is an empty directory of ours. ``kind`` None is told from the ISO. ``target`` is
    readable by its owner only, for it holds password hashes. Raises ExistsError, SpecError,
    ImageError (no installer, damaged, hostile), ToolError.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise SpecError("the source ISO is never written to", where=str(target))
    check_target(target, overwrite=overwrite)
    iso = read_iso(source)
    found = family_of(iso)
    if kind is not None and kind != found:
        raise SpecError(f"the installer takes {found}, not {kind}", where=str(source))
    if not iso.boot:
        raise ImageError("the ISO has no boot catalogue: it does not boot", where=str(source))
    plan = placement(found, answers, release)
    change = _Changes(iso, scratch)
    entries = change.edit_menus([*plan.args, *extra_args])
    if plan.initrd:
        for path in _initrds(entries.values()):
            change.append(path, plan.initrd)
    for path, text in plan.iso.items():
        change.write(path, text.encode())
    change.checksums()
    with replacing(target, overwrite=overwrite) as part:
        write_iso(iso, part, change.files, scratch / "xorriso.log")
        _same_boot(iso, read_iso(part))
    first = next(iter(entries.values()))
    return Remastered(
        target,
        found,
        iso.volume_id,
        {path: menus.arguments(e, [*plan.args, *extra_args]) for path, e in entries.items()},
        menus.path_in_iso(first, first.kernel),
        _initrds([first])[-1],
        tuple(sorted(change.files)),
    )


def write_iso(iso: Iso, target: Path, files: Mapping[str, Path], log: Path) -> None:
    """Write ``iso`` to the empty file ``target``, with ``files`` changed or added.

    They map paths inside to files of ours, all of one directory.

    xorriso reads the whole of a stranger's ISO: it can reach nothing but these files.
    """
    (folder,) = {file.parent for file in files.values()}
    with opened(iso.path) as source, target.open("r+b") as stream:
        out = stream.fileno()
        argv = ["xorriso", "-no_rc", "-abort_on", "FAILURE", "-overwrite", "on"]
        argv += ["-indev", f"stdio:{given(source)}", "-outdev", f"stdio:{given(out)}"]
        argv += ["-joliet", "on" if iso.joliet else "off", "-boot_image", "any", "replay"]
        for path, file in files.items():
            argv += ["-map", f"{SHOWN}/{file.name}", path, "-chown", "0", path, "--"]
            argv += ["-chgrp", "0", path, "--", "-chmod", "0444", path, "--"]
        argv += ["-commit", "-end"]
        command = confined(argv, readable=[source], writable=[out], shown=folder)
        run(command, log=log, timeout=1800, what="writing the ISO", pass_fds=[source, out])


class _Changes:
    """The changed files of an ISO, kept in ``scratch`` under names of our own."""

    def __init__(self, iso: Iso, scratch: Path) -> None:
        self._iso = iso
        self._scratch = scratch
        self._count = 0
        self.files: dict[str, Path] = {}

    def write(self, path: str, data: bytes) -> None:
        """Make ``data`` the content of ``path``."""
        file = self._new()
        file.write_bytes(data)
        self.files[path] = file

    def append(self, path: str, files: Mapping[str, str]) -> None:
        """Append an archive of ``files`` to the initrd ``path``."""
        target = self._new()
        data = {name: text.encode() for name, text in files.items()}
        cpio.append(self._extract([path])[path], target, data)
        self.files[path] = target

    def edit_menus(self, added: Sequence[str]) -> dict[str, menus.Entry]:
        """Write menus that start the installer; returns the entry of each by menu path."""
        paths = [p for p in self._iso.files if self._is_menu(p)]
        texts = {p: f.read_text("utf-8", "replace") for p, f in self._extract(paths).items()}
        entries: dict[str, menus.Entry] = {}
        # Included files (txt.cfg) hold isolinux's entries; its main file is what starts.
        linux = [
            e
            for p, t in texts.items()
            if _is_isolinux(p)
            for e in read_entries(menus.ISOLINUX, p, t)
        ]
        chosen = menus.choose(self._usable(linux))
        for path in texts:
            if chosen is not None and _MAIN.fullmatch(path.lower()):
                entries[path] = chosen
                self.write(path, menus.isolinux_cfg(chosen, added).encode())
        for path, text in texts.items():
            entry = None
            if _GRUB.fullmatch(path):
                entry = menus.choose(self._usable(read_entries(menus.GRUB, path, text)))
            if entry is not None:
                entries[path] = entry
                self.write(path, menus.grub_cfg(entry, added, text).encode())
        entries |= self._esp_menus(added)
        if not entries:
            raise ImageError(
                "no boot menu with an installer's kernel was found", where=str(self._iso.path)
            )
        return entries

    def checksums(self) -> None:
        """Renew the lines of changed files in md5sum.txt, as Debian and Ubuntu have it."""
        if not self._iso.has("/md5sum.txt"):
            return
        text = self._extract(["/md5sum.txt"])["/md5sum.txt"].read_bytes()
        lines = []
        for line in text.splitlines(keepends=True):
            match = re.fullmatch(rb"[0-9a-f]{32}( [ *]\.?(/.*?))(\r?\n)?", line)
            file = self.files.get(match[2].decode("utf-8", "replace")) if match else None
            if match and file is not None:
                digest = _md5(file).encode()
                line = digest + match[1] + (match[3] or b"")
            lines.append(line)
        self.write("/md5sum.txt", b"".join(lines))

    def _is_menu(self, path: str) -> bool:
        file = self._iso.files[path]
        named = _is_isolinux(path) or _GRUB.fullmatch(path)
        return bool(named) and file.kind == "file" and 0 < file.size <= MAX_MENU

    def _usable(self, entries: Sequence[menus.Entry]) -> list[menus.Entry]:
        def there(entry: menus.Entry) -> bool:
            names = [entry.kernel, *entry.initrds]
            return all(self._iso.has(menus.path_in_iso(entry, n)) for n in names)

        return [e for e in entries if e.initrds and there(e)]

    def _esp_menus(self, added: Sequence[str]) -> dict[str, menus.Entry]:
        found: dict[str, menus.Entry] = {}
        for boot in self._iso.boot:
            if boot.platform != UEFI:
                continue
            path = self._iso.boot_image(boot)
            image: Path | None
            if path is not None:
                image = self._extract([path])[path]
            else:
                image = esp.appended(self._iso.path, self._new())
            for name, text in esp.menus_in(image).items():
                entry = menus.choose(self._usable(read_entries(menus.GRUB, name, text)))
                if entry is None:
                    continue
                if path is None or image is None:
                    raise ImageError(
                        "its UEFI boot menu lies in an appended partition, which is not edited",
                        where=str(self._iso.path),
                    )
                esp.replace_menu(image, name, menus.grub_cfg(entry, added, text), self._new())
                found[f"{path}:{name}"] = entry
                self.files[path] = image
        return found

    def _extract(self, paths: Sequence[str]) -> dict[str, Path]:
        targets = {path: self._new() for path in paths}
        if targets:
            read_iso(self._iso.path, targets)
        return targets

    def _new(self) -> Path:
        self._count += 1
        return self._scratch / f"file-{self._count}"


def _is_isolinux(path: str) -> bool:
    return bool(_ISOLINUX.fullmatch(path.lower())) and "/grub" not in path.lower()


def _initrds(entries: Iterable[menus.Entry]) -> list[str]:
    """The last initrd of every entry, once each: an appended archive belongs at the very end."""
    found: list[str] = []
    for entry in entries:
        path = menus.path_in_iso(entry, entry.initrds[-1])
        if path not in found:
            found.append(path)
    return found


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _same_boot(before: Iso, after: Iso) -> None:
    def shape(iso: Iso) -> list[tuple[int, int, str | None]]:
        return [(e.platform, e.media, iso.boot_image(e)) for e in iso.boot]

    if shape(before) != shape(after) or before.volume_id != after.volume_id:
        raise ImageError(
            "xorriso could not keep the boot equipment of this ISO", where=str(before.path)
        )
