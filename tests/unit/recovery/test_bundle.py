"""The file of a bundle: one form, every byte checked, hostile ones refused."""

from __future__ import annotations

import base64
import errno
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagekit.errors import ExistsError, ImagekitError, SpecError, ToolError, VerificationError
from imagekit.host.signing import check_signature, sign_minisign, sign_ssh
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import workspace
from imagekit.recovery.about import About, read_about
from imagekit.recovery.container import read_container, write_container
from imagekit.recovery.credentials import spec_without_credentials
from imagekit.recovery.unpacked import open_bundle
from imagekit.spec.load import load_spec

SOURCES: list[tuple[str, Path | bytes]] = [
    ("spec.yaml", b"name: web01\n"),
    ("packages/hello_1%3a1.0_amd64.deb", b"\x00\x01" * 700),
    ("empty", b""),
    ("lock.yaml", b"x" * 512),
]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "id"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(argv, check=True)
    return path


@pytest.fixture(scope="module")
def signed(key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    target = directory / "web01.bundle"
    write_container(target, {"name": "web01"}, SOURCES, lambda d: sign_ssh(d, key, directory))
    return target


def test_tar_and_sha256sum_read_it_too(signed: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", signed, "-C", tmp_path], check=True)
    subprocess.run(
        ["sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path, check=True
    )
    for name, data in SOURCES:
        assert (tmp_path / name).read_bytes() == data


def test_what_was_put_in_comes_out_and_equal_content_makes_equal_bundles(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    write_container(paths[0], {"n": 1}, SOURCES, None)
    write_container(paths[1], {"n": 1}, SOURCES[::-1], None)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    out = tmp_path / "out"
    out.mkdir()
    checked = read_container(paths[0], out)
    assert checked.about == {"n": 1}
    assert {m.name: (out / m.name).read_bytes() for m in checked.members} == dict(SOURCES)
    with pytest.raises(ExistsError):
        write_container(paths[0], {}, SOURCES, None)
    write_container(paths[0], {"n": 2}, SOURCES, None, overwrite=True)
    assert read_container(paths[0]).about == {"n": 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "out"]


def test_a_file_system_without_nameless_files_gets_the_same_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_container(tmp_path / "a", {"n": 1}, SOURCES, None)
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE here")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    write_container(tmp_path / "b", {"n": 1}, SOURCES, None)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    write_container(whole, {"name": "x"}, SOURCES, None)
    data = whole.read_bytes()
    flipped = tmp_path / "flipped"
    # 23 is prime to the 512 bytes of a block, so every place in a header comes up.
    for position in range(0, len(data), 23):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        flipped.write_bytes(changed)
        with pytest.raises(VerificationError):
            read_container(flipped)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_cut_off_longer_or_mixed_up_bundle_is_refused(
    data: st.DataObject, signed: Path, tmp_path: Path
) -> None:
    whole = signed.read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start, len(whole)))
    other = data.draw(st.binary(max_size=1024))
    changed = whole[:start] + other + whole[end:]
    if changed == whole:
        return
    path = tmp_path / "changed"
    path.write_bytes(changed)
    try:
        checked = read_container(path)
    except VerificationError:
        return
    # Only the signature is not covered by the digests; that is checked with the key.
    assert checked.signature != read_container(signed).signature


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../b", ".", "a//b", "-rf", "a\nb", "x" * 100, ""]
)
def test_a_member_cannot_be_named_outside_the_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="is no name"):
        write_container(tmp_path / "x", {}, [(name, b"")], None)


def test_a_tar_file_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(__file__, "index.json")
    with pytest.raises(VerificationError, match="is no bundle"):
        read_container(path)
    path.write_bytes(b"")
    with pytest.raises(VerificationError, match="is no bundle"):
        read_container(path)


def test_the_signature_holds_for_its_own_key_only(signed: Path, key: Path, tmp_path: Path) -> None:
    checked = read_container(signed)
    assert checked.signature is not None
    public = key.with_suffix(".pub")
    check_signature(checked.sums, checked.signature, public, tmp_path)
    with pytest.raises(VerificationError, match="does not match"):
        check_signature(checked.sums + b"\n", checked.signature, public, tmp_path)
    other = tmp_path / "other"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)]
    subprocess.run(argv, check=True)
    with pytest.raises(VerificationError, match="does not match"):
        check_signature(checked.sums, checked.signature, other.with_suffix(".pub"), tmp_path)
    with pytest.raises(VerificationError):
        check_signature(checked.sums, ("SHA256SUMS.sig", b"rubbish"), public, tmp_path)
    with pytest.raises(SpecError, match="no public ssh key"):
        empty = tmp_path / "empty.pub"
        empty.write_text("# nothing\n")
        check_signature(checked.sums, checked.signature, empty, tmp_path)


def test_an_openssh_signature_is_what_ssh_keygen_itself_accepts(
    signed: Path, key: Path, tmp_path: Path
) -> None:
    subprocess.run(["tar", "-xf", signed, "-C", tmp_path], check=True)
    signers = tmp_path / "signers"
    signers.write_text(f"me {key.with_suffix('.pub').read_text()}")
    argv: list[str | Path] = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        signers,
        "-I",
        "me",
        "-n",
        "imagekit-bundle",
    ]
    with (tmp_path / "SHA256SUMS").open("rb") as sums:
        subprocess.run([*argv, "-s", tmp_path / "SHA256SUMS.sig"], stdin=sums, check=True)


def test_a_minisign_signature_is_what_minisign_itself_accepts(tmp_path: Path) -> None:
    keys = [tmp_path / name for name in ("a", "b")]
    for path in keys:
        argv: list[str | Path] = [
            "minisign",
            "-G",
            "-W",
            "-s",
            path,
            "-p",
            path.with_suffix(".pub"),
        ]
        subprocess.run(argv, check=True, capture_output=True)
    target, key, public = tmp_path / "web01.bundle", keys[0], keys[0].with_suffix(".pub")
    write_container(
        target, {"n": 1}, SOURCES, lambda d: sign_minisign(d, key, tmp_path, "imagekit-bundle")
    )
    checked = read_container(target)
    assert checked.signature is not None
    check_signature(checked.sums, checked.signature, public, tmp_path)
    for sums, trust in (
        (checked.sums + b"\n", public),
        (checked.sums, keys[1].with_suffix(".pub")),
    ):
        with pytest.raises(VerificationError, match="does not match"):
            check_signature(sums, checked.signature, trust, tmp_path)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", target, "-C", tmp_path / "out"], check=True)
    argv = [
        "minisign",
        "-V",
        "-Q",
        "-p",
        public,
        "-m",
        tmp_path / "out/SHA256SUMS",
    ]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert said.strip() == "imagekit-bundle"


def test_a_minisign_key_that_wants_a_password_is_refused_at_once(tmp_path: Path) -> None:
    key = tmp_path / "key"
    argv: list[str | Path] = ["minisign", "-G", "-W", "-s", key, "-p", tmp_path / "key.pub"]
    subprocess.run(argv, check=True, capture_output=True)
    lines = key.read_text().splitlines()
    raw = bytearray(base64.b64decode(lines[1]))
    # The key derivation of minisign's secret key format: scrypt, where it has none.
    raw[2:4] = b"Sc"
    key.write_text(f"{lines[0]}\n{base64.b64encode(raw).decode()}\n")
    with pytest.raises(ToolError, match="must have no password"):
        sign_minisign(b"x", key, tmp_path, "imagekit-bundle")


ABOUT = {"bundle": 1, "kind": "guest", "name": "web01", "imagekit": "0.1.0"}


def test_what_a_bundle_says_of_itself_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = About(
        kind="build",
        name="web01",
        imagekit="0.1.0",
        secrets=["env:PASSWORD"],
        inputs={"./a": "inputs/0000"},
        sealed=["secrets.json.gpg"],
        stripped=True,
    )
    for about in (whole, About(name="web01", imagekit="0.1.0")):
        write_container(tmp_path / "b", about.to_json(), [], None, overwrite=True)
        assert read_about(read_container(tmp_path / "b").about, tmp_path / "b") == about


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bundle": 2}, "unknown form 2"),
        ({"kind": "house"}, "kind"),
        ({"sealed": 5}, "sealed"),
        ({"sealed": [5]}, "sealed"),
        ({"inputs": [1]}, "inputs"),
        ({"trees": {"a": 1}}, "trees"),
        ({"secrets": "env:A"}, "secrets"),
        ({"imagekit": None}, "imagekit"),
    ],
)
def test_what_a_stranger_says_of_a_bundle_is_checked(
    changes: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "b"
    write_container(path, {**ABOUT, **changes}, [("manifest.json", b"{}")], None)
    with workspace(Events()) as space, pytest.raises(VerificationError, match=said) as caught:
        open_bundle(path, None, workspace=space)
    assert caught.value.where == str(path)


def test_a_missing_bundle_is_an_error_a_user_can_read(tmp_path: Path) -> None:
    with pytest.raises(ImagekitError, match="cannot be read"):
        read_container(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "overrides",
    [[], ["disk.size=3GiB", "memory=2048"], ["os.proxy=http://user:s3cret@proxy.example:3128/"]],
)
def test_the_spec_in_a_bundle_loads_as_the_same_spec_without_a_proxys_password(
    overrides: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "web.yaml"
    source.write_text(
        "# a comment\nname: web\nos: {distribution: debian, suite: bookworm}\n"
        "install:\n  method: debootstrap\n  packages: [nano, 'vim-tiny']\ndisk: {size: 2GiB}\n"
        "files: [{target: /etc/motd, content: \"a: 'b'\\n\"}]\n"
    )
    file = load_spec(source, overrides)
    text, stripped = spec_without_credentials(file)
    copy = tmp_path / "copy.yaml"
    copy.write_bytes(text)
    assert load_spec(copy).sha256 == file.sha256
    assert b"s3cret" not in text
    assert stripped == (["os.proxy"] if "s3cret" in str(overrides) else [])
