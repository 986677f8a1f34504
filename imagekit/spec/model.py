"""The models of a guest spec. Unknown keys are refused; every default is stated here."""

from __future__ import annotations

import re
from typing import Any, Literal, Union, get_args

from pydantic import Field, field_validator, model_validator

from imagekit.spec.base import Model, Secret
from imagekit.spec.faults import Misfit, refuse_twice
from imagekit.spec.hardware import Machine, Network, Nic, StaticNetwork
from imagekit.spec.install import Debootstrap, Install, InstallMethod
from imagekit.spec.toolstack_names import ToolstackName
from imagekit.spec.values import (
    DnsName,
    FileMode,
    GuestName,
    GuestPath,
    HostName,
    HostPath,
    Locale,
    MemoryMiB,
    Owner,
    Size,
    Text,
    TimeZone,
    Url,
    UserName,
    Uuid,
    Word,
    format_size,
)

MIB = 1 << 20
Mode = Literal["pv", "pvh", "hvm"]
ImageFormat = Literal["raw", "qcow2", "vhd"]
Filesystem = Literal["ext4", "xfs", "btrfs"]
XenVersion = Literal["4.14", "4.17", "4.20"]
ProofToolstack = Literal["xl", "libvirt"]


class Os(Model):
    """Which operating system, and where its packages come from."""

    distribution: Literal["debian", "ubuntu", "rhel", "fedora"] = "debian"
    suite: Word
    arch: Literal["amd64", "i386"] = "amd64"
    mirror: Url | None = Field(
        None,
        description="Where packages are fetched, and the guest's own source. Default: the build "
        "host's apt sources; the guest gets the distribution's archive.",
    )
    security_mirror: Url | None = Field(
        None, description="Security updates, as for mirror; none by default if mirror is set."
    )
    components: list[Word] = Field(default_factory=lambda: ["main"], min_length=1)
    keyring: HostPath | None = Field(None, description="Keyring that signs the mirror's Release.")
    proxy: Url | None = Field(
        None,
        description="HTTP proxy for the build; never stored. Installers get it in their answers, "
        "where a password would be readable: for them it is refused with one.",
    )


class Partition(Model):
    """One more partition beside /boot, swap and the root."""

    mount: GuestPath
    size: Size
    filesystem: Filesystem = "ext4"

    @field_validator("mount")
    @classmethod
    def _not_ours(cls, value: str) -> str:
        if value.rstrip("/") in ("", "/boot") or any(c in value for c in " \t\\"):
            raise ValueError("name a mount point other than / and /boot, without blanks")
        return value.rstrip("/")


class Disk(Model):
    """The guest's disk: size, table, file systems and the formats it is written in."""

    size: Size = 2 << 30
    formats: list[ImageFormat] = Field(["raw"], min_length=1)
    table: Literal["gpt", "mbr", "none"] = "gpt"
    filesystem: Filesystem = "ext4"
    boot_size: Size = Field(
        0, description="A separate ext4 /boot; made by itself (512MiB) where the root needs one."
    )
    swap: Size = 0
    lvm: bool = Field(False, description="Root and swap on LVM volumes, /boot on a partition.")
    volume_group: Word = "vg0"
    partitions: list[Partition] = Field(default_factory=list)
    vhd: Literal["dynamic", "fixed"] = "dynamic"
    qcow2_compression: Literal["zlib", "zstd"] | None = None

    @field_validator("size")
    @classmethod
    def _bounds(cls, value: int) -> int:
        if not 64 * MIB <= value <= 16 << 40:
            raise ValueError(f"{format_size(value)} is not allowed: it must be from 64MiB to 16TiB")
        if value % MIB:
            raise ValueError(f"{value} bytes are not a whole number of MiB")
        return value

    @field_validator("volume_group")
    @classmethod
    def _group_name(cls, value: str) -> str:
        # LVM2, vg_validate(): group and volume have 124 characters together; the volume is root or
        # swap. device-mapper's name of both has up to 127, and each hyphen twice.
        if len(value.replace("-", "--")) > 120:
            raise ValueError(
                "a volume group's name has up to 120 characters, a hyphen counts twice"
            )
        return value

    @field_validator("formats")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        return refuse_twice(value)

    @property
    def boot_bytes(self) -> int:
        """Size of the separate /boot in bytes, 0 when /boot is part of the root.

        pygrub reads neither XFS v5, btrfs nor LVM, so such roots get an ext4 /boot.
        """
        if self.boot_size:
            return self.boot_size
        return 512 * MIB if self.lvm or self.filesystem != "ext4" else 0

    @model_validator(mode="after")
    def _fits(self) -> Disk:
        parts = self.swap + self.boot_bytes + sum(p.size for p in self.partitions)
        sizes: dict[tuple[str | int, ...], int] = {
            ("swap",): self.swap,
            ("boot_size",): self.boot_size,
            **{("partitions", i, "size"): p.size for i, p in enumerate(self.partitions)},
        }
        for at, size in sizes.items():
            if size % MIB:
                raise Misfit(f"{format_size(size)} is not a whole number of MiB", *at)
        if parts + 32 * MIB > self.size:
            raise Misfit(
                f"the disk has {format_size(self.size)}, and its other partitions need "
                f"{format_size(parts)} beside the root",
                "size",
                hint="make disk.size larger",
            )
        if self.table == "none" and (parts or self.lvm):
            raise Misfit("table: none holds one file system only; use gpt or mbr", "table")
        if self.table == "mbr" and (len(self.partitions) + bool(self.boot_bytes) > 2):
            raise Misfit("table: mbr has four primary partitions; use gpt", "table")
        if self.table == "mbr" and self.size > 2 << 40:
            raise Misfit("table: mbr ends at 2TiB; use gpt", "table")
        mounts = [p.mount for p in self.partitions]
        for index, mount in enumerate(mounts):
            if mount in mounts[:index]:
                raise Misfit(f"{mount} is named twice", "partitions", index, "mount")
        return self


class Boot(Model):
    """How the guest is to boot; every mode named here is checked against kernel and initrd."""

    modes: list[Mode] = Field(["pv", "pvh", "hvm"], min_length=1)
    cmdline: Text = Field("", description="Added to the kernel's command line.")
    timeout: int = Field(
        1, ge=0, le=60, description="GRUB's timeout in seconds; it shows its menu if over 1."
    )

    @field_validator("modes")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        return refuse_twice(value)

    @field_validator("cmdline")
    @classmethod
    def _quotable(cls, value: str) -> str:
        # Dracut, GRUB, pygrub and xl each treat these differently inside a command line.
        bad = sorted(set(value) & set("\"'\\$`#{};&|<>"))
        if bad or not value.isascii():
            raise ValueError(f"{' '.join(bad) or 'non-ASCII'} is not allowed in a command line")
        return " ".join(value.split())


class User(Model):
    """An account in the guest."""

    name: UserName
    gecos: Text = ""
    groups: list[UserName] = Field(default_factory=list)
    shell: GuestPath = "/bin/bash"
    sudo: bool = False
    ssh_keys: list[Text] = Field(default_factory=list)
    password: Secret | None = Field(None, description="A crypt(5) hash, as mkpasswd prints it.")

    @field_validator("gecos")
    @classmethod
    def _gecos(cls, value: str) -> str:
        if ":" in value:
            raise ValueError("a colon would end the field in /etc/passwd")
        return value

    @property
    def sudoers_path(self) -> str:
        """Where the user's rule of sudoers(5) lies; files whose name has a dot are not read."""
        return f"/etc/sudoers.d/imagekit-{self.name.replace('.', '+')}"


class Identity(Model):
    """Who the guest is."""

    hostname: HostName | None = None
    domain: DnsName | None = None
    root_password: Secret | None = Field(
        None, description="A crypt(5) hash, as mkpasswd prints it."
    )
    ssh_keys: list[Text] = Field(default_factory=list, description="For root.")
    users: list[User] = Field(default_factory=list)
    timezone: TimeZone = "Etc/UTC"
    locale: Locale = "C.UTF-8"

    @field_validator("ssh_keys")
    @classmethod
    def _keys(cls, value: list[str]) -> list[str]:
        for index, key in enumerate(value):
            if "PRIVATE KEY" in key:
                what = "this is a private key, which must not be put into an image"
                raise Misfit(what, index, hint="name the line of the .pub file beside it")
            if len(key.split()) < 2:
                what = f"{key!r} is not a public key such as 'ssh-ed25519 AAAA... name'"
                raise Misfit(what, index, hint="name the line of ~/.ssh/id_ed25519.pub")
        return value


class File(Model):
    """A file put into the guest: copied from ``source`` or written from ``content``."""

    target: GuestPath
    source: HostPath | None = None
    content: str | None = Field(None, max_length=1 << 20)
    mode: FileMode = "0644"
    owner: Owner = "root:root"

    @model_validator(mode="after")
    def _one(self) -> File:
        if (self.source is None) == (self.content is None):
            raise Misfit("name exactly one of source and content")
        if self.target.endswith("/"):
            raise Misfit(f"{self.target!r} must name the file, not its directory", "target")
        return self


class Proof(Model):
    """Which boots are proven by ``imagekit prove`` and ``build --prove``."""

    modes: list[Mode] = Field(default_factory=list)
    xen: list[XenVersion] = Field(
        ["4.17"],
        min_length=1,
        description="The Xens it must boot under: that of Debian 11 (4.14), 12 (4.17), 13 (4.20).",
    )
    toolstacks: list[ProofToolstack] = Field(
        ["xl"], min_length=1, description="By which toolstacks it must boot, each in turn."
    )
    expect: Text | None = Field(None, description="Regular expression on the console.")
    command: Text | None = Field(
        None,
        description="Shell command for the proof's dom0 once the guest is up, with `GUEST_ADDRESS` "
        "and `GUEST_NAME` in its environment; the guest fails unless it exits 0 within 240 s.",
    )
    timeout: int = Field(
        300, ge=10, le=7200, description="Seconds for each boot; HVM has four times that."
    )
    strict: bool = Field(
        False, description="A guest that is up with a fault on its console counts as failed."
    )

    @field_validator("expect")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "", re.MULTILINE)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from None
        return value

    @field_validator("xen", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        # YAML takes a bare 4.20 for the number 4.2; no lab has a Xen of one digit after the point.
        if isinstance(value, list):
            return [f"{item:.2f}" if isinstance(item, float) else item for item in value]
        return value

    @field_validator("xen", "toolstacks")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        return refuse_twice(value)


class Spec(Model):
    """A guest: what it is, how it is installed, on which disk, and how it boots."""

    name: GuestName
    uuid: Uuid | None = None
    os: Os
    install: Install
    disk: Disk = Disk()
    boot: Boot = Boot()
    memory: MemoryMiB = 1024
    maxmem: MemoryMiB | None = None
    vcpus: int = Field(1, ge=1, le=512)
    nics: list[Nic] = Field([Nic()], max_length=8)
    machine: Machine = Machine()
    identity: Identity = Identity()
    files: list[File] = Field(default_factory=list)
    scripts: list[HostPath] = Field(
        default_factory=list,
        description="Run as root in the guest, in this order, before users and files are there.",
    )
    toolstacks: list[ToolstackName] = Field(["xl"])
    proof: Proof = Proof()

    @model_validator(mode="after")
    def _agree(self) -> Spec:
        if self.maxmem is not None and self.maxmem < self.memory:
            raise Misfit(f"{self.maxmem} MiB is below memory, {self.memory} MiB", "maxmem")
        if self.disk.table == "none" and "hvm" in self.boot.modes:
            raise Misfit(
                "firmware cannot boot a disk without a partition table, and boot.modes has hvm",
                *("disk", "table"),
                hint="table: gpt, or boot.modes: [pv, pvh]",
            )
        if self.install.method == "debootstrap" and self.os.distribution in ("rhel", "fedora"):
            raise Misfit(
                f"debootstrap makes no {self.os.distribution}; use iso or netboot",
                *("install", "method"),
            )
        macs = [n.mac for n in self.nics]
        for index, mac in enumerate(macs):
            if mac and mac in macs[:index]:
                other = macs.index(mac)
                raise Misfit(f"{mac} is also that of nics[{other}]", "nics", index, "mac")
        names = [u.name for u in self.identity.users]
        for index, name in enumerate(names):
            at = ("identity", "users", index, "name")
            if name == "root":
                raise Misfit("root is there already; its own fields are in identity", *at)
            if name in names[:index]:
                raise Misfit(f"{name!r} is named twice", *at)
        return self

    @property
    def debootstrap(self) -> Debootstrap:
        """The install part of a debootstrap spec; TypeError for any other."""
        if not isinstance(self.install, Debootstrap):
            raise TypeError(f"install.method is {self.install.method}")
        return self.install

    @property
    def hostname(self) -> str:
        """The guest's host name: the one given, or its name made fit for RFC 1123."""
        if self.identity.hostname:
            return self.identity.hostname
        cleaned = "".join(c if c.isalnum() or c == "-" else "-" for c in self.name).strip("-")
        return cleaned[:63].rstrip("-") or "guest"


__all__ = ["Network", "Nic", "Secret", "StaticNetwork"]


def json_schema() -> dict[str, Any]:
    """The JSON schema of a spec file, for editors."""
    schema = Spec.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "imagekit guest spec"
    return schema


def accept_install_method(model: type[InstallMethod]) -> None:
    """Let specs have ``install`` of ``model`` too; the schema and the reference show it then.

    For :func:`imagekit.installs.methods.add_method`.
    """
    field = Spec.model_fields["install"]
    known = get_args(field.annotation)
    field.annotation = Union[(*known, model)]  # type: ignore[assignment]
    Spec.model_rebuild(force=True)
