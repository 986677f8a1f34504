"""The variables of an xm config that ``raw`` may set (``gopts.var`` in xm/create.py, Xen 4.4).

The file is Python: xm takes any other name without a word and does nothing with it.
"""

from __future__ import annotations

from imagekit.domain.text import refuse

_OTHERS = """
acpi apic blkif console_autoconnect cpu cpuid cpuid_check description display fda fdb features
gateway gfx_passthru guest_os_type hap hostname hpet interface ioports irq isa loader localtime
machine_address_size memory_sharing monitor monitor_path nestedhvm netif netmask nfs_root
nfs_server nographic nomigrate on_xend_start on_xend_stop oos opengl pae parallel pci
pci_msitranslate pci_power_mgmt pool rtc_timeoffset s3_integrity sdl shadow_memory soundhw stdvga
superpages suppress_spurious_page_faults target timer_mode tsc_mode usb usbdevice vhpt videoram
viridian vpt_align vscsi vusb xauthority xen_platform_pci
"""
OTHERS = frozenset(_OTHERS.split())


def check_raw_key(key: str) -> None:
    """Raise SpecError unless ``raw`` may set ``key`` in an xm config."""
    if key not in OTHERS:
        refuse(
            f"{key} is not a setting of xm that imagekit leaves free",
            f"raw.{key}",
            "see xmdomain.cfg(5); what the domain has fields for is set there",
        )
