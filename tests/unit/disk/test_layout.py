"""Layouts, boot menus and mirrors: computed values, judged by sfdisk and by simple rules."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.disk.bootloader import CONSOLES, Entry, grub_cfg, grub_word
from imagekit.disk.layout import GPT_TYPES, MIB, Ids, plan_layout, write_table
from imagekit.errors import SpecError
from imagekit.host.apt_sources import host_archive, read_sources, without_credentials
from imagekit.spec.model import Disk

DISKS = st.builds(
    lambda size, table, fs, swap, boot: {
        "size": f"{size}MiB",
        "table": table,
        "filesystem": fs,
        "swap": f"{swap}MiB",
        "boot_size": f"{boot}MiB",
    },
    st.integers(1024, 16384),
    st.sampled_from(["gpt", "mbr"]),
    st.sampled_from(["ext4", "xfs", "btrfs"]),
    st.integers(1, 256),
    st.sampled_from([0, 128, 300]),
)


@given(DISKS)
def test_partitions_are_aligned_in_order_and_inside_the_disk(values: dict[str, str]) -> None:
    layout = plan_layout(Disk.model_validate(values), Ids("seed"))
    end = MIB
    for part in layout.parts:
        assert part.start % MIB == 0
        assert part.start == end
        end = part.start + part.size
    assert end <= layout.size - (MIB if layout.table == "gpt" else 0)
    assert layout.parts[-1].role == "root"
    ids = [p.fs_uuid for p in layout.parts] + [p.part_uuid for p in layout.parts]
    assert len(set(ids)) == len(ids)


@settings(max_examples=15, deadline=None)
@given(DISKS)
def test_sfdisk_reads_back_the_planned_table(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]
) -> None:
    layout = plan_layout(Disk.model_validate(values), Ids(None))
    image = tmp_path_factory.mktemp("table") / "disk.raw"
    with image.open("xb") as stream:
        stream.truncate(layout.size)
    write_table(layout, image)
    out = subprocess.run(
        ["/sbin/sfdisk", "--json", str(image)], capture_output=True, check=True, text=True
    )
    table = json.loads(out.stdout)["partitiontable"]
    assert table["label"] == ("gpt" if layout.table == "gpt" else "dos")
    read = [(p["start"] * 512, p["size"] * 512) for p in table["partitions"]]
    assert read == [(p.start, p.size) for p in layout.parts]
    if layout.table == "gpt":
        assert [p["uuid"].lower() for p in table["partitions"]] == [
            p.part_uuid for p in layout.parts
        ]
        assert [p["type"] for p in table["partitions"]] == [GPT_TYPES[p.role] for p in layout.parts]
    image.unlink()


def test_equal_seeds_give_equal_identifiers() -> None:
    disk = Disk()
    assert plan_layout(disk, Ids("a")) == plan_layout(disk, Ids("a"))
    assert plan_layout(disk, Ids("a")) != plan_layout(disk, Ids("b"))
    assert plan_layout(disk, Ids(None)) != plan_layout(disk, Ids(None))


def test_a_root_that_pygrub_cannot_read_gets_a_boot_partition_of_its_own() -> None:
    for values in ({"filesystem": "xfs"}, {"filesystem": "btrfs"}, {"lvm": True}):
        layout = plan_layout(Disk.model_validate({"size": "2GiB", **values}), Ids(None))
        boot = layout.find("boot")
        assert boot is not None
        assert boot.filesystem == "ext4"
    assert plan_layout(Disk(), Ids(None)).find("boot") is None


@given(st.text(max_size=20))
def test_no_word_in_grub_cfg_can_mean_more_than_itself(text: str) -> None:
    try:
        word = grub_word(text)
    except SpecError:
        return
    assert not set(word) & set(" \t\n\"'\\$`;{}&|<>#()")


def test_grub_cfg_has_literal_lines_only() -> None:
    entries = [Entry("Debian", "/boot/vmlinuz-1", "/boot/initrd.img-1")]
    text = grub_cfg(
        entries, boot_uuid="1234-5678", cmdline=f"root=x ro {CONSOLES}", timeout=0, template=None
    )
    assert "\tlinux /boot/vmlinuz-1 root=x ro console=tty0" in text
    assert "$" not in text
    with pytest.raises(SpecError):
        grub_cfg(entries, boot_uuid="x", cmdline="a=$(b)", timeout=0, template=None)


SOURCES = """\
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""


def host(tmp_path: Path, sources: str, extra: str = "") -> Path:
    parts = tmp_path / "etc/apt/sources.list.d"
    parts.mkdir(parents=True)
    (parts / "debian.sources").write_text(sources)
    (parts / "other.list").write_text(extra)
    (tmp_path / "etc/os-release").write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    return tmp_path


def test_the_mirror_is_the_hosts_own(tmp_path: Path) -> None:
    root = host(
        tmp_path,
        SOURCES,
        "deb [signed-by=/etc/apt/keyrings/vendor.gpg] http://vendor.example bookworm main\n"
        "# deb http://commented.example bookworm main\n",
    )
    archive = host_archive("debian", root)
    assert archive.mirror == "http://mirror.example/debian"
    assert archive.security == "http://mirror.example/debian-security"
    assert len(read_sources(root)) == 3
    assert host_archive("ubuntu", root).mirror is None


def test_a_disabled_or_foreign_source_is_no_mirror(tmp_path: Path) -> None:
    root = host(tmp_path, SOURCES.replace("Types: deb", "Enabled: no\nTypes: deb"))
    assert host_archive("debian", root).mirror is None


def test_credentials_leave_a_url() -> None:
    assert without_credentials("http://u:p@host:80/x") == "http://host:80/x"
    assert without_credentials("http://host/x") == "http://host/x"
