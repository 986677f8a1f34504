"""Remastered ISOs of several makes, judged by xorriso, isoinfo and cpio; and hostile ISOs."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pycdlib
import pytest
from oracles import isos

from imagekit.disk.isoread import read_iso
from imagekit.errors import ExistsError, ImageError, SpecError
from imagekit.installs.remaster.remaster import Remastered, remaster

pytestmark = pytest.mark.real
ANSWERS = "d-i netcfg/get_hostname string web01\n"
KERNEL = b"kernel" * 9000
INITRD = gzip.compress(b"")
Make = Callable[[Path, Path], Path]
MAKES: dict[str, tuple[dict[str, bool], Make]] = {
    "xorriso-hybrid": ({}, lambda t, o: isos.with_xorriso(t, o, hybrid=True)),
    "xorriso-bios-uefi": ({}, lambda t, o: isos.with_xorriso(t, o, hybrid=False)),
    "xorriso-uefi": ({"bios": False}, lambda t, o: isos.with_xorriso(t, o, hybrid=False)),
    "xorriso-bios-hybrid": ({"efi": False}, lambda t, o: isos.with_xorriso(t, o, hybrid=True)),
    "genisoimage-bios": ({"efi": False}, isos.with_genisoimage),
    "pycdlib-bios": (
        {"efi": False},
        lambda t, o: isos.with_pycdlib(t, o, "isolinux/isolinux.bin"),
    ),
    "pycdlib-uefi": ({"bios": False}, lambda t, o: isos.with_pycdlib(t, o, "boot/grub/efi.img")),
}
# isolinux.bin holds a table of its own address and checksum, boot catalogues hold addresses.
MOVING = {"isolinux/isolinux.bin", "isolinux/boot.cat", "boot.cat", "boot.catalog"}


def make(name: str, base: Path) -> Path:
    options, write = MAKES[name]
    tree = base / "tree"
    tree.mkdir()
    isos.debian_tree(tree, KERNEL, INITRD, **options)
    return write(tree, base / "source.iso")


def do(source: Path, base: Path, answers: str = ANSWERS, **more: object) -> Remastered:
    scratch = base / "scratch"
    scratch.mkdir()
    return remaster(source, base / "out.iso", answers, scratch=scratch, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MAKES)
def test_boot_equipment_volume_id_and_untouched_files_stay_the_same(
    name: str, tmp_path: Path
) -> None:
    source = make(name, tmp_path)
    digest = hashlib.sha256(source.read_bytes()).digest()
    result = do(source, tmp_path)
    assert hashlib.sha256(source.read_bytes()).digest() == digest
    before = isos.report(source, tmp_path / "before")
    after = isos.report(result.path, tmp_path / "after")
    if name == "pycdlib-uefi":  # xorriso writes the true load size, where pycdlib had four
        assert len(before.el_torito) == len(after.el_torito)
    else:
        assert after.el_torito == before.el_torito
    assert after.system_area == before.system_area
    assert after.volume_id == before.volume_id and after.uuid == before.uuid
    if name != "genisoimage-bios":  # which puts symbolic links into Joliet as empty files
        assert after.joliet == before.joliet
    changed = {n for n in before.files | after.files if before.files.get(n) != after.files.get(n)}
    assert changed - MOVING == {p.removeprefix("/") for p in result.changed}
    assert set(before.files) == set(after.files)


def test_a_hybrid_source_really_has_all_tables_and_keeps_them(tmp_path: Path) -> None:
    result = do(make("xorriso-hybrid", tmp_path), tmp_path)
    area = " ".join(isos.report(result.path, tmp_path / "after").system_area)
    assert "isohybrid" in area and "GPT" in area and "APM" in area
    sector = result.path.read_bytes()[:1024]
    assert sector[510:512] == b"\x55\xaa" and sector[512:520] == b"EFI PART"


def test_isolinuxs_own_checksum_holds_after_it_moved(tmp_path: Path) -> None:
    result = do(make("xorriso-hybrid", tmp_path), tmp_path)
    isos.report(result.path, tmp_path / "after")
    data = (tmp_path / "after/tree/isolinux/isolinux.bin").read_bytes()
    # Boot info table (mkisofs(8)): checksum of the 32-bit words from offset 64, at offset 20.
    padded = data[64:] + bytes(-len(data) % 4)
    total = sum(int.from_bytes(padded[i : i + 4], "little") for i in range(0, len(padded), 4))
    assert int.from_bytes(data[20:24], "little") == total & 0xFFFFFFFF
    assert int.from_bytes(data[16:20], "little") == len(data)


def test_the_answers_are_the_last_file_of_the_initrd(tmp_path: Path) -> None:
    result = do(make("xorriso-hybrid", tmp_path), tmp_path)
    isos.report(result.path, tmp_path / "after")
    data = (tmp_path / "after/tree/install.amd/initrd.gz").read_bytes()
    extra = data[len(INITRD) + -len(INITRD) % 4 :]
    (tmp_path / "x").mkdir()
    subprocess.run(["cpio", "-id", "--quiet"], input=extra, cwd=tmp_path / "x", check=True)
    assert (tmp_path / "x/preseed.cfg").read_text() == ANSWERS


def test_md5sum_txt_is_right_again(tmp_path: Path) -> None:
    result = do(make("xorriso-hybrid", tmp_path), tmp_path)
    isos.report(result.path, tmp_path / "after")
    done = subprocess.run(
        ["md5sum", "--check", "--quiet", "md5sum.txt"], cwd=tmp_path / "after/tree", check=False
    )
    assert done.returncode == 0


def redhat(base: Path, *, efi_menu: bool = True) -> Path:
    """An ISO shaped as Red Hat's: kernels twice, the UEFI menu inside the EFI image too."""
    tree = base / "rh"
    (tree / "EFI/BOOT").mkdir(parents=True)
    (tree / "images/pxeboot").mkdir(parents=True)
    (tree / "isolinux").mkdir()
    (tree / ".discinfo").write_text("1.0\nRocky Linux 9.4\nx86_64\n")
    for folder in ("images/pxeboot", "isolinux"):
        (tree / folder / "vmlinuz").write_bytes(KERNEL)
        (tree / folder / "initrd.img").write_bytes(INITRD)
    for file in (isos.ISOLINUX / "isolinux.bin", isos.MODULES / "ldlinux.c32"):
        shutil.copyfile(file, tree / "isolinux" / file.name)
    menu = (
        "set default=1\nsearch --no-floppy --set=root -l 'Rocky 9'\nmenuentry 'Install' {\n"
        "  linuxefi /images/pxeboot/vmlinuz inst.stage2=hd:LABEL=Rocky\\x209 quiet\n"
        "  initrdefi /images/pxeboot/initrd.img\n}\n"
    )
    (tree / "EFI/BOOT/grub.cfg").write_text(menu)
    (tree / "isolinux/isolinux.cfg").write_text(
        "default vesamenu.c32\nlabel linux\n  kernel vmlinuz\n"
        "  append initrd=initrd.img inst.stage2=hd:LABEL=Rocky\\x209 quiet\n"
    )
    isos.efi_image(tree / "images/efiboot.img", base / "efi", menu if efi_menu else None)
    target = base / "rh.iso"
    argv = ["xorriso", "-as", "mkisofs", "-r", "-J", "-V", "Rocky 9", *isos.BIOS_ARGS]
    argv += ["-eltorito-alt-boot", "-e", "images/efiboot.img", "-no-emul-boot"]
    isos.run(*argv, "-o", target, tree)
    return target


def test_red_hats_menus_change_in_all_three_places_and_both_initrds(tmp_path: Path) -> None:
    result = do(redhat(tmp_path), tmp_path, "text\n")
    assert result.kind == "kickstart"
    assert set(result.changed) == {
        *("/isolinux/isolinux.cfg", "/EFI/BOOT/grub.cfg", "/images/efiboot.img"),
        *("/isolinux/initrd.img", "/images/pxeboot/initrd.img"),
    }
    isos.report(result.path, tmp_path / "after")
    image = tmp_path / "after/tree/images/efiboot.img"
    inside = isos.run("mtype", "-i", image, "::EFI/BOOT/grub.cfg")
    assert "inst.stage2=hd:LABEL=Rocky\\x209 inst.ks=file:/ks.cfg" in inside
    assert "search --no-floppy --set=root -l 'Rocky 9'" in inside
    isolinux = (tmp_path / "after/tree/isolinux/isolinux.cfg").read_text()
    assert "inst.stage2=hd:LABEL=Rocky\\x209 inst.ks=file:/ks.cfg" in isolinux
    assert isos.report(result.path, tmp_path / "again").volume_id == "Rocky 9"


def ubuntu(base: Path) -> Path:
    """An ISO shaped as Ubuntu's live server: GRUB for BIOS and UEFI, casper."""
    tree = base / "ub"
    isos.debian_tree(tree, KERNEL, INITRD, bios=False)
    shutil.rmtree(tree / "install.amd")
    (tree / "casper").mkdir()
    (tree / "casper/vmlinuz").write_bytes(KERNEL)
    (tree / "casper/initrd").write_bytes(INITRD)
    (tree / "boot/grub/grub.cfg").write_text(
        'set timeout=30\nmenuentry "Try or Install Ubuntu Server" {\n'
        "\tlinux\t/casper/vmlinuz  ---\n\tinitrd\t/casper/initrd\n}\n"
    )
    return isos.with_xorriso(tree, base / "ub.iso", hybrid=False, volume="Ubuntu-Server 24.04 LTS")


def test_ubuntus_seed_goes_into_the_isos_root(tmp_path: Path) -> None:
    result = do(ubuntu(tmp_path), tmp_path, "autoinstall: {version: 1}\n")
    isos.report(result.path, tmp_path / "after")
    tree = tmp_path / "after/tree"
    assert (tree / "autoinstall/user-data").read_text() == "autoinstall: {version: 1}\n"
    assert (tree / "autoinstall/meta-data").read_text() == ""
    assert "'ds=nocloud;s=/cdrom/autoinstall/'" in (tree / "boot/grub/grub.cfg").read_text()
    assert (tree / "casper/initrd").read_bytes() == INITRD


def test_the_target_is_not_overwritten_unless_told_and_is_readable_by_its_owner_only(
    tmp_path: Path,
) -> None:
    source = make("xorriso-uefi", tmp_path)
    (tmp_path / "out.iso").write_text("mine")
    with pytest.raises(ExistsError):
        do(source, tmp_path)
    assert (tmp_path / "out.iso").read_text() == "mine"
    (tmp_path / "s2").mkdir()
    done = remaster(source, tmp_path / "out.iso", ANSWERS, scratch=tmp_path / "s2", overwrite=True)
    assert done.path.stat().st_mode & 0o777 == 0o600


def test_the_source_is_never_written_to(tmp_path: Path) -> None:
    source = make("xorriso-uefi", tmp_path)
    (tmp_path / "s").mkdir()
    with pytest.raises(SpecError):
        remaster(source, source, ANSWERS, scratch=tmp_path / "s", overwrite=True)


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_a_truncated_iso_is_refused_and_leaves_nothing(tmp_path: Path, keep: float) -> None:
    source = make("xorriso-hybrid", tmp_path)
    data = source.read_bytes()
    source.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ImageError):
        do(source, tmp_path)
    assert not list(tmp_path.glob("*out.iso*"))


@pytest.mark.parametrize("content", [b"", b"\0" * 70000, b"CD001" * 20000])
def test_what_is_no_iso_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.iso").write_bytes(content)
    with pytest.raises(ImageError):
        read_iso(tmp_path / "x.iso")


@pytest.mark.parametrize("name", ["../../evil", "..", "a\nb"])
def test_a_name_that_leaves_its_directory_is_refused(tmp_path: Path, name: str) -> None:
    iso = pycdlib.PyCdlib()
    iso.new(rock_ridge="1.09", vol_ident="X")
    safe = "Z" * len(name)
    iso.add_fp(io.BytesIO(b"x"), 1, "/FILE.;1", rr_name=safe)
    iso.write(str(tmp_path / "x.iso"))
    data = (tmp_path / "x.iso").read_bytes()
    assert safe.encode() in data
    (tmp_path / "x.iso").write_bytes(
        data.replace(b"\x01\x00" + safe.encode(), b"\x01\x00" + name.encode())
    )
    with pytest.raises(ImageError) as caught:
        read_iso(tmp_path / "x.iso")
    assert "leave" in str(caught.value) or "usable" in str(caught.value)


def test_a_directory_that_contains_itself_is_refused_in_time(tmp_path: Path) -> None:
    iso = pycdlib.PyCdlib()
    iso.new(rock_ridge="1.09", vol_ident="X")
    iso.add_directory("/DIR", rr_name="dir")
    iso.write(str(tmp_path / "x.iso"))
    data = bytearray((tmp_path / "x.iso").read_bytes())
    root = int.from_bytes(data[16 * 2048 + 158 : 16 * 2048 + 162], "little")
    at = data.index(b"\x03DIR", root * 2048) - 32
    data[at + 2 : at + 10] = root.to_bytes(4, "little") + root.to_bytes(4, "big")
    (tmp_path / "x.iso").write_bytes(bytes(data))
    with pytest.raises(ImageError):
        read_iso(tmp_path / "x.iso")


def test_an_iso_that_is_no_installer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/readme").write_text("x")
    isos.run("xorriso", "-as", "mkisofs", "-r", "-o", tmp_path / "x.iso", tmp_path / "t")
    with pytest.raises(ImageError) as caught:
        do(tmp_path / "x.iso", tmp_path)
    assert "no installer" in str(caught.value)
