"""Locks, apt's lists, and what is said of two builds that differ."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from imagekit.disk.layout import Part
from imagekit.errors import DownloadError, HostError, SpecError, VerificationError
from imagekit.installs.mirrors import Mirrors
from imagekit.installs.stages import archive, lockfile
from imagekit.installs.stages.provenance import provenance
from imagekit.locks.changes import changes
from imagekit.locks.difference import differing_blocks, disk_difference, tar_differences
from imagekit.spec import load, model
from imagekit.spec.lock import Lock, lock_text, parse_lock

SHA = "a" * 64


def package(name: str = "hello", version: str = "1.0-1", sha: str = SHA) -> dict[str, object]:
    return {
        "name": name,
        "version": version,
        "architecture": "amd64",
        "priority": "optional",
        "suite": "bookworm",
        "path": f"pool/main/h/{name}/{name}_{version}_amd64.deb",
        "size": 10,
        "sha256": sha,
    }


def lock(*packages: dict[str, object], **fields: object) -> Lock:
    value: dict[str, object] = {"name": "web01", "spec_sha256": SHA, "method": "debootstrap"}
    value |= {"source_date_epoch": 1700000000, "packages": list(packages)}
    return Lock.model_validate({**value, **fields})


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.from_regex(r"\A[a-z0-9][a-z0-9+.-]{1,20}\Z"), min_size=1, max_size=5, unique=True),
    st.from_regex(r"\A[0-9][A-Za-z0-9.+~-]{0,15}\Z"),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=30),
)
def test_a_lock_reads_back_as_it_was_written(names: list[str], version: str, text: str) -> None:
    written = lock(*(package(n, version) for n in names), tools={"tar": "1"}, kernel=text)
    assert parse_lock(lock_text(written).encode(), "x.lock") == written


@pytest.mark.parametrize(
    ("origin", "seconds", "has_epoch", "repeats"),
    [
        *(("environment", 9, True, True), ("archive", 9, True, True), ("default", 9, True, True)),
        *(("releases", 9, True, False), ("packages", 9, True, False)),
        ("packages", 0, False, False),
    ],
)
def test_what_a_lock_promises_follows_from_where_its_time_is_from(
    origin: str, seconds: int, has_epoch: bool, repeats: bool
) -> None:
    made = lock(epoch_from=origin, source_date_epoch=seconds)
    assert (made.has_epoch, made.repeats) == (has_epoch, repeats)


def test_a_change_of_identifiers_is_a_difference_of_locks() -> None:
    found = changes(lock(seed="a 1"), lock(seed="b 2"))
    assert [(change.kind, change.old, change.new) for change in found] == [("seed", "a 1", "b 2")]
    assert changes(lock(), lock()) == []


@pytest.mark.parametrize("seed", ["a\nb", "x" * 201, "$(x)"])
def test_a_seed_is_plain_words(seed: str) -> None:
    with pytest.raises(SpecError, match="seed"):
        parse_lock(lock_text(lock()).replace("seed: ''", f"seed: {seed!r}").encode(), "x")


def test_a_lock_has_one_line_per_package_for_review() -> None:
    text = lock_text(lock(package("one"), package("two")))
    assert [x for x in text.splitlines() if "pool/main" in x and x.startswith("- {name: ")] == [
        x for x in text.splitlines() if "pool/main" in x
    ]
    assert text.count("pool/main") == 2


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x.deb", "pool/../../x", "pool/./x.deb", "a b.deb", "pool/$(x).deb", ""],
)
def test_a_pool_path_that_leaves_the_archive_is_refused(path: str) -> None:
    with pytest.raises(SpecError, match="not a lock"):
        parse_lock(lock_text(lock(package())).replace(str(package()["path"]), path).encode(), "l")


@pytest.mark.parametrize("data", [b"", b"[1, 2]", b"a: [", b"\xff\xfe", b"lock: 2\n", b"- " * 5000])
def test_what_is_no_lock_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(SpecError, match=r"web\.lock"):
        parse_lock(data, "web.lock")


def test_a_diff_names_what_came_went_and_changed() -> None:
    old = lock(package("gone"), package("libc6", "1"), kernel="6.1.0-1")
    new = lock(package("libc6", "2"), package("new"), kernel="6.1.0-2")
    assert [(c.kind, c.name, c.old is None, c.new is None) for c in changes(old, new)] == [
        ("kernel", "", False, False),
        ("package", "gone:amd64", False, True),
        ("package", "libc6:amd64", False, False),
        ("package", "new:amd64", True, False),
    ]
    assert changes(old, old) == []


def test_the_same_version_built_again_is_a_change() -> None:
    (change,) = changes(lock(package()), lock(package(sha="b" * 64)))
    assert change.name == "hello:amd64"


SPEC = """name: web
os: {distribution: debian, suite: bookworm}
install: {method: debootstrap}
disk: {size: 2GiB}
"""


def test_a_field_that_a_later_version_knows_does_not_break_the_tie_to_the_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disk(model.Disk):
        future: int = 7

    class Later(model.Spec):
        disk: Disk = Disk()
        another: list[str] = Field(default_factory=list)

    path = tmp_path / "web.yaml"
    path.write_text(SPEC)
    now = load.load_spec(path).sha256
    monkeypatch.setattr(load, "Spec", Later)
    assert load.load_spec(path).sha256 == now
    path.write_text(SPEC + "another: [x]\n")
    assert load.load_spec(path).sha256 != now


def test_a_default_spelled_out_does_not_break_the_tie_to_the_spec(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(SPEC)
    now = load.load_spec(path)
    path.write_text(SPEC + f"memory: {now.spec.memory}\n")
    assert load.load_spec(path).sha256 == now.sha256


def test_a_locked_installation_names_what_is_gone_and_what_came_instead() -> None:
    rows = [{"name": n, "version": "1", "architecture": "amd64"} for n in ("bash", "libc6")]
    then = lock(installed=rows)
    lockfile.require_installed(then, then)
    newer = lock(installed=[rows[0], {**rows[1], "version": "2"}])
    with pytest.raises(VerificationError, match=r"lacks libc6 1, has libc6 2 instead"):
        lockfile.require_installed(then, newer)
    assert [(c.kind, c.name, c.old, c.new) for c in changes(then, newer)] == [
        ("installed", "libc6:amd64", "1", "2")
    ]


LISTS = {
    "m_debian_dists_bookworm_InRelease": "Origin: Debian\nDate: Sat, 10 Jun 2023 08:00:00 UTC\n",
    "m_debian_dists_bookworm_main_binary-amd64_Packages": (
        "Package: hello\nVersion: 1.0\nArchitecture: amd64\nPriority: optional\n"
        "Filename: pool/h/hello.deb\nSize: 5\nSHA256: " + SHA + "\nDescription: x\n y: z\n\n"
        "Package: hello\nVersion: 2.0\nArchitecture: amd64\nFilename: other\nSHA256: " + SHA
    ),
}


def write_lists(directory: Path) -> Path:
    for name, text in LISTS.items():
        (directory / name).write_text(text + "\n")
    return directory


def test_apts_lists_tell_pool_path_digest_and_release(tmp_path: Path) -> None:
    installed = [{"name": "hello", "version": "1.0", "architecture": "amd64"}]
    found = provenance(write_lists(tmp_path), installed)
    assert [(p["path"], p["sha256"], p["suite"]) for p in found["packages"]] == [
        ("pool/h/hello.deb", SHA, "bookworm")
    ]
    (release,) = found["releases"]
    data = (tmp_path / "m_debian_dists_bookworm_InRelease").read_bytes()
    assert release["sha256"] == hashlib.sha256(data).hexdigest()
    assert release["date"] == 1686384000


def test_a_package_that_no_list_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="do not name hello"):
        provenance(
            write_lists(tmp_path), [{"name": "hello", "version": "3", "architecture": "amd64"}]
        )


def test_a_directory_of_packages_is_trusted_by_digest_only(tmp_path: Path) -> None:
    wanted = lock(package(sha=hashlib.sha256(b"right").hexdigest()))
    debs, target = tmp_path / "debs", tmp_path / "target"
    debs.mkdir()
    target.mkdir()
    (debs / "hello_1.0-1_amd64.deb").write_bytes(b"wrong")
    with pytest.raises(VerificationError, match="not what the lock names"):
        archive.collect(wanted, target, Mirrors((), (), Path()), debs, {})
    (debs / "hello_1.0-1_amd64.deb").write_bytes(b"right")
    archive.collect(wanted, target, Mirrors((), (), Path()), debs, {})
    assert (target / "hello_1.0-1_amd64.deb").read_bytes() == b"right"


def test_a_package_no_mirror_has_is_named(tmp_path: Path) -> None:
    empty, target = tmp_path / "mirror", tmp_path / "target"
    empty.mkdir()
    target.mkdir()
    mirrors = Mirrors(((f"file:{empty}", "bookworm"),), ("main",), Path())
    with pytest.raises(DownloadError, match=r"hello 1\.0-1"):
        archive.collect(lock(package()), target, mirrors, None, {})


def tree(path: Path, files: dict[str, bytes], mode: int = 0o644, mtime: int = 7) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mode, info.mtime = len(data), mode, mtime
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("second", "options", "file", "reason"),
    [
        ({"a": b"1", "b": b"2"}, {"mode": 0o600}, "/a", "mode"),
        ({"a": b"1", "b": b"3"}, {}, "/b", "content differs at byte 0"),
        ({"a": b"1", "b": b"2"}, {"mtime": 8}, "/a", "modification time"),
        ({"a": b"1"}, {}, "/b", "only in the first"),
        ({"a": b"1", "b": b"2", "c": b""}, {}, "/c", "only in the second"),
        ({"a": b"1", "b": b"22"}, {}, "/b", "size"),
    ],
)
def test_the_first_differing_file_of_two_trees_is_named_with_the_reason(
    second: dict[str, bytes], options: dict[str, int], file: str, reason: str, tmp_path: Path
) -> None:
    one = tree(tmp_path / "1.tar", {"a": b"1", "b": b"2"})
    two = tree(tmp_path / "2.tar", second, **options)
    found = next(tar_differences(one, two))
    assert found.file == file
    assert reason in found.reason
    assert list(tar_differences(one, one)) == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=4), st.integers(0, 40))
def test_the_first_differing_block_is_found_however_sparse_the_images_are(
    blocks: list[int], odd: int
) -> None:
    import tempfile

    size = 41 * (1 << 18)
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / name for name in "ab"]
        for path in paths:
            with path.open("wb") as stream:
                stream.truncate(size)
                for block in blocks:
                    stream.seek(block << 18)
                    stream.write(b"same")
        assert list(differing_blocks(*paths)) == []
        with paths[1].open("r+b") as stream:
            stream.seek((odd << 18) + 5000)
            stream.write(b"odd")
        assert list(differing_blocks(*paths)) == [(odd << 18) + 4096]


def test_a_differing_block_of_an_ext4_is_traced_to_its_file(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "etc").mkdir(parents=True)
    images = []
    for name in ("first", "second"):
        (source / "etc/motd").write_text(f"{name}\n" * 3000)
        image = tmp_path / f"{name}.raw"
        with image.open("wb") as stream:
            stream.truncate((1 << 20) + (16 << 20))
        argv = ["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", str(source)]
        argv += ["-U", "11111111-2222-3333-4444-555555555555"]
        seed = "hash_seed=11111111-2222-3333-4444-555555555555"
        argv += ["-O", "^has_journal", "-E", f"offset=1048576,{seed}", str(image), "4096"]
        subprocess.run(argv, check=True, env={"E2FSPROGS_FAKE_TIME": "1700000000"})
        images.append(image)
    part = Part(1, "root", 1 << 20, 16 << 20, "", filesystem="ext4")
    found = disk_difference(images[0], images[1], [part])
    assert found is not None
    assert found.file == "/etc/motd"
    assert disk_difference(images[0], images[0], [part]) is None


@pytest.mark.parametrize(
    "line",
    [
        "deb http://mirror.test/debian bookworm main",
        "deb https://mirror.test:8443/debian/ bookworm-security main contrib non-free-firmware",
        "deb-src http://[2001:db8::1]/debian bookworm main",
        "deb copy:/srv/mirror ./ main",
        "# a comment, [trusted=yes] and all",
        'deb [signed-by="/usr/share/keyrings/debian-archive-keyring.gpg"] http://m.test/d sid main',
        "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://m.test/u noble main",
    ],
)
def test_the_sources_of_a_guest_are_in_its_lock(line: str) -> None:
    written = lock(sources=[line])
    assert parse_lock(lock_text(written).encode(), "l").sources == [line]


@pytest.mark.parametrize(
    "line",
    [
        "deb [trusted=yes] http://m.test/d sid main",
        "deb [ trusted=yes ] http://m.test/d sid main",
        "deb\t[trusted=yes] http://m.test/d sid main",
        "deb [TRUSTED=yes] http://m.test/d sid main",
        "deb [arch=amd64 trusted=yes] http://m.test/d sid main",
        "deb [signed-by=/usr/share/keyrings/a.gpg trusted=yes] http://m.test/d sid main",
        "deb [signed-by=/usr/share/keyrings/a.gpg] [trusted=yes] http://m.test/d sid main",
        "deb [signed-by=/usr/share/keyrings/../../../tmp/a.gpg] http://m.test/d sid main",
        "deb [signed-by=/tmp/a.gpg] http://m.test/d sid main",
        "deb [allow-insecure=yes] http://m.test/d sid main",
        "deb [check-valid-until=no] http://m.test/d sid main",
        "deb [arch=amd64] http://m.test/d sid main",
        "deb http://m.test/d [trusted=yes] sid main",
        " deb [trusted=yes] http://m.test/d sid main",
        "rpm http://m.test/d sid main",
        "deb http://m.test/d",
        "Types: deb",
        "",
    ],
)
def test_a_lock_gives_apt_no_options(line: str) -> None:
    text = lock_text(lock())
    assert text.count("sources: []") == 1
    with pytest.raises(SpecError, match=r"not a lock: sources"):
        parse_lock(text.replace("sources: []", f"sources: [{json.dumps(line)}]").encode(), "l")
