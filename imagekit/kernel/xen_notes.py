"""What a kernel tells Xen about itself: ELF notes, or the older ``__xen_guest`` string.

Numbers and meaning: Xen ``xen/include/public/elfnote.h``; the string's grammar and what the domain
builder refuses: ``xen/common/libelf/libelf-dominfo.c``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from imagekit.kernel.elf import Elf, Note

NAMES = {
    0: "INFO",
    1: "ENTRY",
    2: "HYPERCALL_PAGE",
    3: "VIRT_BASE",
    4: "PADDR_OFFSET",
    5: "XEN_VERSION",
    6: "GUEST_OS",
    7: "GUEST_VERSION",
    8: "LOADER",
    9: "PAE_MODE",
    10: "FEATURES",
    11: "BSD_SYMTAB",
    12: "HV_START_LOW",
    13: "L1_MFN_VALID",
    14: "SUSPEND_CANCEL",
    15: "INIT_P2M",
    16: "MOD_START_PFN",
    17: "SUPPORTED_FEATURES",
    18: "PHYS32_ENTRY",
    19: "PHYS32_RELOC",
}

_TEXTS = frozenset({0, 5, 6, 7, 8, 9, 10, 11})
_MAX_TEXT = 4096

FEATURES = frozenset(
    {
        "writable_page_tables",
        "writable_descriptor_tables",
        "auto_translated_physmap",
        "supervisor_mode_kernel",
        "pae_pgdir_above_4gb",
        "gnttab_map_avail_bits",
        "hvm_callback_vector",
        "dom0",
    }
)
"""Features whose names Xen's builder knows; a required unknown one makes it refuse the kernel."""


@dataclass(frozen=True)
class XenNotes:
    """The notes of one kernel. ``source`` is ``ELF notes``, ``__xen_guest`` or None (no notes)."""

    source: str | None
    numbers: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def entry(self) -> int | None:
        """The PV entry point, a virtual address."""
        return self.numbers.get("ENTRY")

    @property
    def phys32_entry(self) -> int | None:
        """The PVH entry point, a physical address."""
        return self.numbers.get("PHYS32_ENTRY")

    @property
    def required_features(self) -> tuple[str, ...]:
        """Names after ``!`` in FEATURES: what the guest cannot do without."""
        words = self.texts.get("FEATURES", "").split("|")
        return tuple(word.strip()[1:] for word in words if word.strip().startswith("!"))

    def names(self) -> str:
        """The names of the notes present, for evidence."""
        return ", ".join(sorted({*self.numbers, *self.texts})) or "none"

    def pv_refusal(self) -> str | None:
        """Why Xen's PV builder refuses this kernel though it has an entry point, or None.

        The rules of ``elf_xen_note_check`` and ``elf_xen_feature_parse``.
        """
        version = self.texts.get("XEN_VERSION", "")
        if not version.startswith("xen-3.0"):
            return f"XEN_VERSION is {version!r}, not xen-3.0: Xen refuses the kernel"
        generic = self.texts.get("LOADER", "").startswith("generic")
        if not generic and not self.texts.get("GUEST_OS", "").startswith("linux"):
            return "neither LOADER=generic nor GUEST_OS=linux: Xen refuses the kernel"
        for name in self.required_features:
            if name == "dom0":
                return "FEATURES requires dom0: the kernel does not run as a domU"
            if name not in FEATURES:
                return f"FEATURES requires {name!r}, which Xen does not know"
        return None


def read(elf: Elf) -> XenNotes:
    """The Xen notes of ``elf``; the ``__xen_guest`` string is read when there are none."""
    notes = [note for note in elf.notes if note.owner == "Xen" and note.type in NAMES]
    if notes:
        return _from_notes(notes)
    if elf.xen_guest is not None:
        return _from_guest_string(elf.xen_guest)
    return XenNotes(None)


def _from_notes(notes: Iterable[Note]) -> XenNotes:
    numbers: dict[str, int] = {}
    texts: dict[str, str] = {}
    for note in notes:
        name = NAMES[note.type]
        if note.type in _TEXTS:
            texts[name] = note.desc[:_MAX_TEXT].split(b"\0", 1)[0].decode("ascii", "replace")
        elif len(note.desc) in (1, 2, 4, 8):
            numbers[name] = int.from_bytes(note.desc, "little")
    return XenNotes("ELF notes", numbers, texts)


_GUEST_TEXTS = {
    "GUEST_OS": "GUEST_OS",
    "GUEST_VER": "GUEST_VERSION",
    "XEN_VER": "XEN_VERSION",
    "LOADER": "LOADER",
    "PAE": "PAE_MODE",
    "FEATURES": "FEATURES",
    "BSD_SYMTAB": "BSD_SYMTAB",
}
_GUEST_NUMBERS = {
    "VIRT_ENTRY": "ENTRY",
    "VIRT_BASE": "VIRT_BASE",
    "ELF_PADDR_OFFSET": "PADDR_OFFSET",
    "HYPERCALL_PAGE": "HYPERCALL_PAGE",
}


def _from_guest_string(text: str) -> XenNotes:
    """``NAME=VALUE,...``; the entry point is the ELF header's when VIRT_ENTRY is absent."""
    numbers: dict[str, int] = {"ENTRY": 0}
    texts: dict[str, str] = {}
    for item in text.split(","):
        name, _, value = item.strip().partition("=")
        if name in _GUEST_TEXTS:
            texts[_GUEST_TEXTS[name]] = value
        elif name in _GUEST_NUMBERS:
            try:
                numbers[_GUEST_NUMBERS[name]] = int(value[:32], 0)
            except ValueError:
                continue
    return XenNotes("__xen_guest", numbers, texts)
