"""The ``install`` part of a spec: one model per method, told apart by ``method``."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from imagekit.spec.base import Model
from imagekit.spec.values import HostPath, HostPort, PackageName, Sha256, Text, Url, Word

Answers = Literal["preseed", "kickstart", "autoinstall"]
REACH = (
    'HOST:PORT that the installer may reach, "[IPV6]:PORT" too, beside the mirror, the proxy and '
    "the answers."
)


class InstallMethod(Model):
    """What every method's part of a spec has: ``method``, a Literal that no other has."""

    method: str

    def inputs(self) -> list[str]:
        """Names of the host files that a build reads, for its lock and for bundles."""
        return []


class Debootstrap(InstallMethod):
    """Packages unpacked into a tree, the tree made into an image."""

    method: Literal["debootstrap"]
    tool: Literal["mmdebstrap", "debootstrap"] = "mmdebstrap"
    variant: Literal["minbase", "apt", "essential", "important", "standard"] = "minbase"
    packages: list[PackageName] = Field(default_factory=list)
    kernel: PackageName | HostPath | None = Field(
        None, description="Kernel package, or a vmlinuz file. Default: the distribution's."
    )
    initrd: HostPath | None = Field(None, description="With a kernel file: its initrd.")
    modules: HostPath | None = Field(
        None, description="With a kernel file: its /lib/modules/RELEASE directory."
    )
    initrd_modules: list[Word] = Field(
        default_factory=list, description="More drivers for the initrd."
    )
    elements: list[Word] = Field(
        default_factory=list, description="diskimage-builder elements run in the tree."
    )
    element_path: list[HostPath] = Field(
        default_factory=list, description="Directories of elements, searched before our own."
    )
    element_environment: dict[str, Text] = Field(
        default_factory=dict, description="Variables the elements read (DIB_...)."
    )
    element_network: bool = Field(
        False, description="Let elements use this host's network; without, they have none."
    )
    element_timeout: int = Field(
        1800, ge=10, le=86400, description="Seconds for each phase of the elements."
    )

    def inputs(self) -> list[str]:
        """The host's files among kernel and initrd."""
        kernel = self.kernel if self.kernel and "/" in self.kernel else None
        return [name for name in (self.initrd, kernel) if name]


class Iso(InstallMethod):
    """An installer ISO, remastered to run by itself, run to its end, and harvested."""

    method: Literal["iso"]
    iso: Url | HostPath
    sha256: Sha256 | None = None
    signature: Url | HostPath | None = Field(
        None, description="Detached signature of the ISO or of its checksum file."
    )
    checksums: Url | HostPath | None = Field(None, description="SHA256SUMS naming the ISO.")
    keyring: HostPath | None = None
    args: Text = Field("", description="More kernel arguments for the installer.")
    answers: Answers = "preseed"
    template: HostPath | None = Field(None, description="Your own answers template.")
    release: Word | None = Field(None, description="Version of the answers, e.g. RHEL9.")
    packages: list[PackageName] = Field(default_factory=list)
    reach: list[HostPort] = Field(default_factory=list, max_length=64, description=REACH)
    on_host: bool = Field(False, description="Emit the install for a Xen host; do not run it.")
    golden: bool = Field(True, description="Remove machine identity from the harvested image.")
    firmware: Literal["bios", "uefi"] = Field("bios", description="What the installer runs on.")
    memory: int = Field(2048, ge=128, le=1 << 20, description="MiB while installing.")
    timeout: int = Field(7200, ge=60, le=172800, description="Seconds for the installation.")
    idle: int = Field(900, ge=30, le=86400, description="Seconds without console or disk activity.")


class Netboot(InstallMethod):
    """An installer booted by PXE: published, run, harvested; or emitted for a Xen host."""

    method: Literal["netboot"]
    kernel: HostPath | Url | None = Field(None, description="The installer's kernel.")
    initrd: HostPath | Url | None = Field(None, description="With a kernel: its initrd.")
    kernel_sha256: Sha256 | None = Field(None, description="A kernel from a URL needs it.")
    initrd_sha256: Sha256 | None = None
    package: PackageName | None = Field(
        None, description="Debian package that holds the installer's kernel and initrd."
    )
    mirror: Url | None = Field(
        None, description="Debian mirror with the installer's images, verified by its signature."
    )
    keyring: HostPath | None = Field(None, description="With a mirror: whose signature. Debian's.")
    args: Text = Field("", description="More kernel arguments for the installer.")
    answers: Answers = "preseed"
    template: HostPath | None = Field(None, description="Your own answers template.")
    release: Word | None = Field(None, description="Version of the answers, e.g. RHEL9.")
    packages: list[PackageName] = Field(default_factory=list)
    reach: list[HostPort] = Field(default_factory=list, max_length=64, description=REACH)
    on_host: bool = Field(False, description="Emit the install for a Xen host; do not run it.")
    golden: bool = Field(True, description="Remove machine identity from the harvested image.")
    memory: int = Field(2048, ge=128, le=1 << 20, description="MiB while installing.")
    timeout: int = Field(7200, ge=60, le=172800, description="Seconds for the installation.")
    idle: int = Field(900, ge=30, le=86400, description="Seconds without console or disk activity.")


class DiskimageBuilder(InstallMethod):
    """The whole of disk-image-create; its product is harvested."""

    method: Literal["diskimage-builder"]
    elements: list[Word] = Field(min_length=1)
    element_path: list[HostPath] = Field(default_factory=list)
    environment: dict[str, Text] = Field(default_factory=dict)
    packages: list[PackageName] = Field(default_factory=list)
    block_device: HostPath | None = Field(
        None,
        description="A block-device configuration (YAML) of diskimage-builder's own. It lays out "
        "the disk in place of disk:; without LVM and boot loader.",
    )
    timeout: int = Field(7200, ge=60, le=172800)

    def inputs(self) -> list[str]:
        """The block-device configuration, if there is one."""
        return [self.block_device] if self.block_device else []


Install = Annotated[Debootstrap | Iso | Netboot | DiskimageBuilder, Field(discriminator="method")]


def method_name(model: type[InstallMethod]) -> str:
    """What ``model`` has as ``method``; raises TypeError unless that is a Literal of one word."""
    words = get_args(model.model_fields["method"].annotation)
    if len(words) != 1 or not isinstance(words[0], str):
        raise TypeError(f"{model.__name__}.method is no Literal of one word")
    return words[0]
