"""Publishing guests for netbooting: kernels, boot configs and answers under one root.

::

    ROOT/tftp/      pxelinux.cfg/01-MAC, HEXIP; ipxe/MAC.ipxe; boot.ipxe; grub/grub.cfg-01-MAC;
                    images/DIGEST/linux, initrd      (the root of TFTP, and of HTTP)
    ROOT/answers/   TOKEN/preseed.cfg                (HTTP only, mode 0600)
    ROOT/used/      TOKEN                            (answers that were fetched)
    ROOT/state.json                                  (what is ours)
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from imagekit.disk.extents import opened
from imagekit.errors import ImageError, SpecError, VerificationError
from imagekit.host.exclusive import exclusive
from imagekit.netboot import render, tree
from imagekit.netboot.netguest import MODES, Mode, NetbootGuest
from imagekit.netboot.reading import check_kernel
from imagekit.pypxeboot.location import from_url, normalise


@dataclass(frozen=True)
class Site:
    """Where a tree is published and how clients name what is in it.

    ``tftp_prefix`` is what stands before ``images/...`` when a TFTP client asks (empty when
    ROOT/tftp is the TFTP root and the boot program lies in it). ``http`` is the URL whose path
    ``/`` is ROOT/tftp and whose ``/answers/`` is ROOT/answers.
    """

    root: Path
    tftp_prefix: str = ""
    http: str = ""

    def __post_init__(self) -> None:
        if self.tftp_prefix:
            if not re.fullmatch(r"[A-Za-z0-9/._+-]+", self.tftp_prefix):
                raise SpecError(f"{self.tftp_prefix!r} is no usable TFTP prefix")
            object.__setattr__(self, "tftp_prefix", normalise(self.tftp_prefix + "/"))
        if self.http:
            if not from_url(self.http).is_http:
                raise SpecError(f"{self.http!r} is not an http or https URL")
            object.__setattr__(self, "http", self.http.rstrip("/"))


def publish(site: Site, guests: Sequence[NetbootGuest], *, prune: bool = False) -> tree.Changes:
    """Publish ``guests``; with ``prune`` they are all there shall be, else others stay.

    The same input a second time changes nothing. A guest that was flipped to ``local`` stays so
    unless its ``mode`` says otherwise. Raises SpecError for guests that clash, VerificationError
    for a digest that does not match, ImageError for a kernel that is none, ExistsError for foreign
    files in the way; then nothing has changed.
    """
    with exclusive(site.root):
        tree.require_private(site.root, [])
        old = tree.load(site.root)
        tree.require_private(site.root, old.files)
        new = tree.State(site.tftp_prefix, site.http)
        sources: dict[str, tree.Content] = {}
        names = [guest.name for guest in guests]
        if len(set(names)) != len(names):
            raise SpecError("a guest is given twice", where=", ".join(sorted(names)))
        if not prune:
            new.guests = {k: deepcopy(v) for k, v in old.guests.items() if k not in names}
            sources.update(_carried(site.root, new))
        for guest in guests:
            record = _record(site, guest, old.guests.get(guest.name), sources)
            new.guests[guest.name] = record
        _check_clashes(new)
        return tree.apply(site.root, old, new, sources | _configs(new))


def flip(root: Path, name: str, mode: Mode) -> tree.Changes:
    """Let guest ``name`` install itself at its next boot, or boot its own disk.

    Flipping to install gives secret answers a new URL, so that they can be fetched once more.
    """
    if mode not in MODES:
        raise SpecError(f"{mode!r} is neither install nor local")
    with exclusive(root):
        tree.require_private(root, [])
        old = tree.load(root)
        tree.require_private(root, old.files)
        if name not in old.guests:
            known = ", ".join(sorted(old.guests)[:10]) or "none"
            raise SpecError(
                f"no guest {name!r} is published", where=str(root), hint=f"are: {known}"
            )
        new = tree.State(old.prefix, old.http, deepcopy(old.guests))
        sources = _carried(root, new)
        record = new.guests[name]
        if mode == "install" and record.secret and record.token:
            content = sources.pop(record.answers)
            fresh = secrets.token_urlsafe(24)
            text = (root / record.answers).read_bytes()
            record.args = record.args.replace(record.token, fresh)
            record.token, record.answers = fresh, f"answers/{fresh}/{record.answers_name}"
            sources[record.answers] = replace(content, source=None, data=text, digest="")
        record.mode = mode
        return tree.apply(root, old, new, sources | _configs(new))


def _record(
    site: Site,
    guest: NetbootGuest,
    before: tree.GuestRecord | None,
    sources: dict[str, tree.Content],
) -> tree.GuestRecord:
    kernel = _image(guest, "linux", guest.kernel, guest.kernel_sha256, sources)
    initrd = ""
    if guest.initrd is not None:
        initrd = _image(guest, "initrd", guest.initrd, guest.initrd_sha256, sources)
    mode = guest.mode or (before.mode if before else "install")
    if ("{answers}" in guest.args or "{done}" in guest.args or guest.answers) and not site.http:
        raise SpecError("answers are fetched over HTTP: give --http URL", where=guest.name)
    if "{answers}" in guest.args and guest.answers is None:
        raise SpecError("the arguments name answers, and there are none", where=guest.name)
    done = before.done_token if before and before.done_token else secrets.token_urlsafe(24)
    record = tree.GuestRecord(
        guest.mac_dashes, guest.ip, mode, kernel, initrd, guest.args, done_token=done
    )
    done_url = f"{site.http}/done/{done}"
    if guest.answers is not None:
        _add_answers(site, guest, before, record, sources, done_url)
        url = f"{site.http}/{record.answers}"
        record.args = record.args.replace("{answers}", url)
    record.args = record.args.replace("{done}", done_url)
    return record


def _add_answers(
    site: Site,
    guest: NetbootGuest,
    before: tree.GuestRecord | None,
    record: tree.GuestRecord,
    sources: dict[str, tree.Content],
    done_url: str,
) -> None:
    def text_at(token: str) -> bytes:
        url = f"{site.http}/answers/{token}/{guest.answers_name}"
        text = guest.answers(url, done_url) if callable(guest.answers) else guest.answers or ""
        return text.encode()

    token = guest.name
    if guest.secret:
        known = before.token if before and before.secret else ""
        is_used = bool(known) and (site.root / "used" / known).exists()
        rearm = is_used and record.mode == "install"
        token = known if known and not rearm else secrets.token_urlsafe(24)
        if token == known and before is not None:
            changed = tree.Content(text_at(token)).sha256() != before.answers_digest
            token = secrets.token_urlsafe(24) if changed and is_used else token
    content = tree.Content(text_at(token), private=guest.secret)
    record.answers = f"answers/{token}/{guest.answers_name}"
    record.answers_name, record.answers_digest = guest.answers_name, content.sha256()
    record.secret, record.token = guest.secret, token if guest.secret else ""
    sources[record.answers] = content


def _image(
    guest: NetbootGuest, kind: str, path: Path, pin: str, sources: dict[str, tree.Content]
) -> str:
    """Check a kernel or initrd and add it to the tree; its path below the TFTP root."""
    with opened(path) as fd:
        digest = tree.descriptor_digest(fd)
        if pin and pin.lower() != digest:
            raise VerificationError(
                f"the {kind} of {guest.name} has the SHA-256 {digest}, not {pin}", where=str(path)
            )
        if os.fstat(fd).st_size == 0:
            raise ImageError(f"the {kind} is empty", where=str(path))
        if kind == "linux":
            check_kernel(fd, str(path))
    name = f"images/{digest[:32]}/{kind}"
    sources[f"tftp/{name}"] = tree.Content(source=path, digest=digest)
    return name


def _carried(root: Path, state: tree.State) -> dict[str, tree.Content]:
    """The images and answers of guests that stay as they are."""
    names: dict[str, bool] = {}
    for record in state.guests.values():
        for image in filter(None, (record.kernel, record.initrd)):
            names[f"tftp/{image}"] = False
        if record.answers:
            names[record.answers] = record.secret
    return {
        name: tree.Content(source=root / name, private=private) for name, private in names.items()
    }


def _configs(state: tree.State) -> dict[str, tree.Content]:
    files: dict[str, tree.Content] = {}
    for record in state.guests.values():
        facts = render.BootFacts(
            mode="local" if record.mode == "local" else "install",
            mac=record.mac,
            ip=record.ip,
            kernel=record.kernel,
            initrd=record.initrd,
            args=record.args,
            prefix=state.prefix,
            http=state.http,
        )
        for name, text in render.configs(facts).items():
            files[f"tftp/{name}"] = tree.Content(text.encode())
    if files:
        files["tftp/boot.ipxe"] = tree.Content(render.entry_script().encode())
    return files


def _check_clashes(state: tree.State) -> None:
    for what in ("mac", "ip"):
        seen: dict[str, str] = {}
        for name, record in state.guests.items():
            value = getattr(record, what)
            if value and seen.setdefault(value, name) != name:
                raise SpecError(f"{seen[value]} and {name} have the same {what}: {value}")
