"""What is sealed opens for whom it was sealed; what is left out of a bundle is out of it."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.errors import SpecError, VerificationError
from imagekit.installs.stages.trees import pack
from imagekit.recovery.guestbundle import without_hashes
from imagekit.recovery.sealing import Seal, Unlock, seal, unseal
from imagekit.recovery.unpacked import unpack_tree

ME: dict[str, Any] = {"recipients": ("me",)}
FIELD = st.text(st.characters(codec="ascii", exclude_characters=":\n\r", min_codepoint=33))
HASHES = st.from_regex(r"\A!?\$[0-9a-z]{1,2}\$[A-Za-z0-9./$]{8,60}\Z")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(FIELD, st.one_of(HASHES, FIELD), FIELD), max_size=6))
def test_no_password_hash_stays_in_a_shadow_file_and_no_line_goes(
    rows: list[tuple[str, str, str]],
) -> None:
    text = "".join(":".join(row) + "\n" for row in rows)
    made = [line.split(":") for line in without_hashes(text).splitlines()]
    assert [(row[0], row[2]) for row in made] == [(name, rest) for name, _, rest in rows]
    for row, (_, before, _) in zip(made, rows, strict=True):
        assert row[1] == ("" if not before else "!" if before[0] not in "*" else before)


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text("correct horse\nnot this line\n")
    return path


def test_a_passphrase_opens_what_it_sealed_and_another_does_not(
    passphrase: Path, tmp_path: Path
) -> None:
    source, closed, scratch = tmp_path / "x", tmp_path / "x.gpg", tmp_path / "scratch"
    scratch.mkdir()
    data = bytes(range(256)) * 64
    source.write_bytes(data)
    seal(source, closed, Seal(passphrase=passphrase), scratch)
    assert data[:64] not in closed.read_bytes()
    unseal(closed, tmp_path / "y", Unlock(passphrase), scratch)
    assert (tmp_path / "y").read_bytes() == data
    passphrase.write_text("wrong horse\n")
    with pytest.raises(VerificationError, match="cannot be decrypted"):
        unseal(closed, tmp_path / "z", Unlock(passphrase), scratch)
    assert not (tmp_path / "z").exists()


def age_key(directory: Path) -> tuple[Path, str]:
    """The file of a new secret key, and the recipient it is for."""
    argv: list[str | Path] = ["age-keygen", "-o", directory / "age.key"]
    subprocess.run(argv, check=True, capture_output=True)
    argv = ["age-keygen", "-y", directory / "age.key"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return directory / "age.key", done.stdout.strip()


def test_each_of_the_age_recipients_opens_it_and_nobody_else(tmp_path: Path) -> None:
    source, closed = tmp_path / "x", tmp_path / "x.age"
    data = bytes(range(256)) * 1024
    source.write_bytes(data)
    identity, recipient = age_key(tmp_path)
    ssh = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh], check=True)
    how = Seal(age=(recipient, str(tmp_path / "id.pub")))
    seal(source, closed, how, tmp_path)
    assert (how.suffix, data[:64] in closed.read_bytes()) == (".age", False)
    for number, key in enumerate((identity, ssh)):
        unseal(closed, tmp_path / f"y{number}", Unlock(identity=key), tmp_path)
        assert (tmp_path / f"y{number}").read_bytes() == data
        assert (tmp_path / f"y{number}").stat().st_mode & 0o777 == 0o600
    (tmp_path / "other").mkdir()
    stranger, _ = age_key(tmp_path / "other")
    for keys in (Unlock(identity=stranger), Unlock(identity=tmp_path / "nowhere"), Unlock()):
        with pytest.raises(VerificationError, match=r"cannot be decrypted|encrypted by age"):
            unseal(closed, tmp_path / "z", keys, tmp_path)
    # The first blocks of it are whole, and age has written them by then.
    changed = bytearray(closed.read_bytes())
    changed[-20] ^= 1
    closed.write_bytes(changed)
    with pytest.raises(VerificationError, match="cannot be decrypted"):
        unseal(closed, tmp_path / "z", Unlock(identity=identity), tmp_path)
    assert not (tmp_path / "z").exists()


@pytest.mark.parametrize("recipient", ["age1nonsense", "nobody", "--armor", "", "ssh-rsa AAAA"])
def test_what_is_no_age_recipient_is_refused(recipient: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(SpecError, match="age"):
        seal(tmp_path / "x", tmp_path / "y", Seal(age=(recipient,)), tmp_path)
    assert not (tmp_path / "y").exists()


def test_a_seal_is_for_somebody_and_a_passphrase_is_not_empty(tmp_path: Path) -> None:
    for ways in ({}, {"recipients": ("me",), "passphrase": tmp_path}, {"age": ("a",), **ME}):
        with pytest.raises(SpecError, match="in one way"):
            Seal(**ways)
    for text in (None, "", "\nsecond\n", "x" * 5000):
        path = tmp_path / "p"
        if text is not None:
            path.write_text(text)
        with pytest.raises(SpecError, match="passphrase"):
            seal(tmp_path / "x", tmp_path / "y", Seal(passphrase=path), tmp_path)


def test_a_directory_of_a_bundle_cannot_leave_the_bundle(tmp_path: Path) -> None:
    source = tmp_path / "elements"
    (source / "mine/install.d").mkdir(parents=True)
    (source / "mine/install.d/10-x").write_text("#!/bin/sh\n")
    (source / "mine/install.d/10-x").chmod(0o755)
    (source / "mine/install.d/20-y").symlink_to("../../mine/install.d/10-x")
    pack(source, tmp_path / "tree.tar", epoch=None)
    made = unpack_tree(tmp_path, "tree.tar")
    assert (made / "mine/install.d/20-y").stat().st_mode & 0o111
    assert (made / "mine/install.d/20-y").readlink() == Path("../../mine/install.d/10-x")
    for index, (name, kind, link) in enumerate(
        (
            ("../outside", tarfile.REGTYPE, ""),
            ("/tmp/outside", tarfile.REGTYPE, ""),
            ("link", tarfile.SYMTYPE, "/etc/passwd"),
            ("link", tarfile.SYMTYPE, "../outside"),
            ("link", tarfile.SYMTYPE, "a/../../outside"),
            ("node", tarfile.CHRTYPE, ""),
            ("hard", tarfile.LNKTYPE, "/etc/passwd"),
        )
    ):
        with tarfile.open(tmp_path / f"{index}.tar", "w") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info)
        with pytest.raises(VerificationError, match="cannot be unpacked"):
            unpack_tree(tmp_path, f"{index}.tar")
    assert not (tmp_path / "outside").exists()
    (tmp_path / "damaged.tar").write_bytes(b"x" * 700)
    with pytest.raises(VerificationError, match="cannot be unpacked"):
        unpack_tree(tmp_path, "damaged.tar")
