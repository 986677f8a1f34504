"""Installer ISOs of several makes, and what xorriso and isoinfo say of any ISO."""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pycdlib

ISOLINUX = Path("/usr/lib/ISOLINUX")
MODULES = Path("/usr/lib/syslinux/modules/bios")
EFI_MODULES = [
    *("part_gpt", "part_msdos", "fat", "iso9660", "normal", "linux", "search", "search_fs_file"),
    *("search_label", "configfile", "echo", "test", "serial", "terminal", "minicmd", "gzio"),
]
EARLY = (
    "search --file --set=root /.disk/info\n"
    "set prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n"
)


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    """Run a tool; its output."""
    done = subprocess.run(
        [str(a) for a in argv], cwd=cwd, capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode("utf-8", "replace")


def efi_image(target: Path, scratch: Path, menu: str | None = None) -> Path:
    """A FAT image with GRUB for UEFI; ``menu`` lies in it beside GRUB, as Red Hat has it."""
    scratch.mkdir(parents=True, exist_ok=True)
    early = scratch / "early.cfg"
    early.write_text(
        EARLY if menu is None else "set prefix=($cmdpath)\nconfigfile $cmdpath/grub.cfg\n"
    )
    loader = scratch / "bootx64.efi"
    run(
        "grub-mkimage",
        "-O",
        "x86_64-efi",
        "-c",
        early,
        "-p",
        "/boot/grub",
        "-o",
        loader,
        *EFI_MODULES,
    )
    run("mkfs.vfat", "-C", target, "4096")
    run("mmd", "-i", target, "::EFI", "::EFI/BOOT")
    run("mcopy", "-i", target, loader, "::EFI/BOOT/BOOTX64.EFI")
    if menu is not None:
        (scratch / "grub.cfg").write_text(menu)
        run("mcopy", "-i", target, scratch / "grub.cfg", "::EFI/BOOT/grub.cfg")
    return target


def debian_tree(
    tree: Path, kernel: bytes, initrd: bytes, *, bios: bool = True, efi: bool = True
) -> None:
    """The files of a Debian installer CD, with a graphical default and an expert entry."""
    for name in (".disk", "install.amd/gtk", "isolinux", "boot/grub", "pool/main"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    (tree / ".disk/info").write_text('Debian GNU/Linux 12.0.0 "Bookworm" - test\n')
    for folder in ("install.amd", "install.amd/gtk"):
        (tree / folder / "vmlinuz").write_bytes(kernel)
        (tree / folder / "initrd.gz").write_bytes(initrd)
    long_name = "pool/main/a-package-with-a-long-name_1.2.3-4+deb12u1_all.deb"
    (tree / long_name).write_bytes(b"deb" * 1000)
    (tree / "README latin \u00e4.txt").write_text("hello\n")
    (tree / "debian").symlink_to(".")
    gtk = "/install.amd/gtk/initrd.gz"
    if bios:
        for source in (ISOLINUX / "isolinux.bin", MODULES / "ldlinux.c32"):
            (tree / "isolinux" / source.name).write_bytes(source.read_bytes())
        (tree / "isolinux/isolinux.cfg").write_text("path \ninclude txt.cfg\nprompt 1\ntimeout 0\n")
        (tree / "isolinux/txt.cfg").write_text(
            "default installgui\n"
            "label installgui\n\tmenu label ^Graphical install\n\tmenu default\n"
            f"\tkernel /install.amd/vmlinuz\n\tappend vga=788 initrd={gtk} --- quiet\n"
            "label expert\n\tkernel /install.amd/vmlinuz\n"
            "\tappend priority=low vga=788 initrd=/install.amd/initrd.gz --- \n"
            "label install\n\tmenu label ^Install\n\tkernel /install.amd/vmlinuz\n"
            "\tappend vga=788 initrd=/install.amd/initrd.gz --- quiet\n"
        )
    if efi:
        (tree / "boot/grub/grub.cfg").write_text(
            "set default=0\nset timeout=-1\ninsmod gfxterm\n"
            "menuentry --hotkey=g 'Graphical install' {\n"
            f"    linux    /install.amd/vmlinuz vga=788 --- quiet\n    initrd   {gtk}\n}}\n"
            "menuentry --hotkey=i 'Install' {\n"
            "    linux    /install.amd/vmlinuz vga=788 --- quiet\n"
            "    initrd   /install.amd/initrd.gz\n}\n"
        )
        if not (tree / "boot/grub/efi.img").exists():
            efi_image(tree / "boot/grub/efi.img", tree.parent / f"{tree.name}-efi")
    lines = []
    for path in sorted(tree.rglob("*")):
        skip = ("isolinux.bin", "boot.cat", "md5sum.txt")
        if path.is_file() and not path.is_symlink() and path.name not in skip:
            digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            lines.append(f"{digest}  ./{path.relative_to(tree)}\n")
    (tree / "md5sum.txt").write_text("".join(lines))


BIOS_ARGS = [
    *("-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat"),
    *("-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"),
]
EFI_ARGS = ["-eltorito-alt-boot", "-e", "boot/grub/efi.img", "-no-emul-boot"]


def with_xorriso(
    tree: Path, target: Path, *, hybrid: bool, volume: str = "Debian 12.0.0 amd64 n"
) -> Path:
    """As debian-cd does it; hybrid with MBR, GPT and Apple partition map."""
    argv: list[str | Path] = ["xorriso", "-as", "mkisofs", "-r", "-J", "-joliet-long", "-V", volume]
    if hybrid:
        argv += ["-isohybrid-mbr", ISOLINUX / "isohdpfx.bin"]
    bios = (tree / "isolinux/isolinux.bin").exists()
    efi = (tree / "boot/grub/efi.img").exists()
    argv += BIOS_ARGS if bios else []
    if efi:
        argv += EFI_ARGS if bios else EFI_ARGS[1:]
        argv += ["-isohybrid-gpt-basdat", "-isohybrid-apm-hfsplus"] if hybrid else []
    run(*argv, "-o", target, tree)
    return target


def with_genisoimage(tree: Path, target: Path, volume: str = "GENISO VOLUME") -> Path:
    """BIOS only, by cdrkit."""
    run("genisoimage", "-quiet", "-r", "-J", "-V", volume, *BIOS_ARGS, "-o", target, tree)
    return target


def with_pycdlib(tree: Path, target: Path, boot: str, volume: str = "PYCDLIB") -> Path:
    """Rock Ridge and Joliet by pycdlib; ``boot`` is the one image of the catalogue."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, rock_ridge="1.09", joliet=3, vol_ident=volume)
    short: dict[str, str] = {"": ""}
    for number, path in enumerate(sorted(tree.rglob("*"))):
        name = str(path.relative_to(tree))
        parent = short["" if "/" not in name else name.rpartition("/")[0]]
        if path.is_symlink():
            iso.add_symlink(
                f"{parent}/L{number:06d}.;1",
                rr_symlink_name=path.name,
                rr_path=str(path.readlink()),
            )
        elif path.is_dir():
            short[name] = f"{parent}/D{number:06d}"
            iso.add_directory(short[name], rr_name=path.name, joliet_path=f"/{name}")
        else:
            iso.add_file(
                str(path), f"{parent}/F{number:06d}.;1", rr_name=path.name, joliet_path=f"/{name}"
            )
            short[name] = f"{parent}/F{number:06d}.;1"
    efi = boot.endswith(".img")
    iso.add_eltorito(
        short[boot],
        bootcatfile="/BOOT.CAT;1",
        rr_bootcatname="boot.cat",
        joliet_bootcatfile="/boot.cat",
        boot_load_size=4,
        boot_info_table=not efi,
        efi=efi,
        platform_id=0xEF if efi else 0,
    )
    iso.write(str(target))
    iso.close()
    return target


@dataclass(frozen=True)
class Report:
    """What xorriso and isoinfo say of an ISO."""

    el_torito: tuple[str, ...]
    system_area: tuple[str, ...]
    volume_id: str
    uuid: str
    joliet: tuple[str, ...]
    files: dict[str, str]


def report(iso: Path, scratch: Path) -> Report:
    """Read ``iso`` with tools of others; the files are extracted below ``scratch``."""
    scratch.mkdir()
    run("xorriso", "-osirrox", "on", "-indev", f"stdio:{iso}", "-extract", "/", scratch / "tree")
    files = {}
    for path in (scratch / "tree").rglob("*"):
        name = str(path.relative_to(scratch / "tree"))
        if path.is_symlink():
            files[name] = f"-> {path.readlink()}"
        elif path.is_file():
            files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    boot = run("xorriso", "-indev", f"stdio:{iso}", "-report_el_torito", "plain")
    area = run("xorriso", "-indev", f"stdio:{iso}", "-report_system_area", "plain")
    pvd = run("isoinfo", "-d", "-i", iso)
    uuid = run("xorriso", "-indev", f"stdio:{iso}", "-pvd_info")
    names = run("isoinfo", "-J", "-f", "-i", iso) if "Joliet" in pvd else ""
    volume = re.search(r"(?m)^Volume id: (.*)$", pvd)
    modified = re.search(r"(?m)^Creation Time: *(.*)$", uuid)
    return Report(
        tuple(_shape(boot)),
        tuple(_shape(area)),
        volume[1] if volume else "",
        modified[1] if modified else "",
        tuple(sorted(line for line in names.splitlines() if line.startswith("/"))),
        files,
    )


def _shape(text: str) -> list[str]:
    """The lines without block addresses and sizes, which move with the changed files."""
    lines = []
    for line in text.splitlines():
        if re.match(
            r"(El Torito|System area options|System area summary|MBR|GPT|APM|Boot record)", line
        ):
            lines.append(
                re.sub(r"\b(0x)?[0-9a-fA-F]{8,}\b|\b\d{2,}\b", "N", re.sub(r" +", " ", line))
            )
    return lines
