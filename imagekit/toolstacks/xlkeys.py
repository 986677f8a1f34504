"""The keys of xl.cfg that ``raw`` may set, for the toolstacks whose text xl reads in the end.

xl ignores a key it does not know without a word, so that a typing error would survive; hence the
list. It holds what ``tools/xl/xl_parse.c`` of Xen 4.17 reads and no Domain field words.
"""

from __future__ import annotations

from collections.abc import Mapping

from imagekit.domain.text import refuse

OURS: Mapping[str, str] = {
    "name": "name",
    "uuid": "uuid",
    "type": "boot.modes",
    "builder": "boot.modes",
    "pvh": "boot.modes",
    "memory": "memory",
    "maxmem": "maxmem",
    "vcpus": "vcpus",
    "maxvcpus": "machine.maxvcpus",
    "kernel": "boot",
    "ramdisk": "boot",
    "cmdline": "boot.cmdline",
    "root": "boot.cmdline",
    "extra": "boot.cmdline",
    "bootloader": "boot",
    "bootloader_args": "boot",
    "firmware": "boot",
    "bios": "boot",
    "boot": "boot",
    "disk": "disk",
    "vif": "nics",
    "vfb": "machine.graphics",
    "vnc": "machine.graphics",
    "vnclisten": "machine.graphics",
    "vncdisplay": "machine.graphics",
    "vncunused": "machine.graphics",
    "vncpasswd": "machine.graphics",
    "keymap": "machine.graphics",
    "serial": "boot.modes",
    "cpu_weight": "machine.cpu.weight",
    "cap": "machine.cpu.cap",
    "cpus": "machine.cpu.pins",
    "on_poweroff": "machine.on_poweroff",
    "on_reboot": "machine.on_reboot",
    "on_crash": "machine.on_crash",
}
"""Keys the emitter writes itself (or that undo one it writes), and the spec's field for them."""

IGNORED: Mapping[str, str] = {
    "bootargs": "it is xm's; xl reads bootloader_args",
    "device_model": "xl ignores it; device_model_override names a program",
    "on_shutdown": "xl ignores it; there are on_poweroff and on_reboot",
    "dhcp": "xl ignores it; it was xm's",
    "cpu_cap": "it is xm's; the spec's machine.cpu.cap sets it",
    "vif2": "xl does not support it",
}
"""Keys that xl drops, some without a word."""

_OTHERS = """
acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2mhvm apic bios_path_override
channel cpuid cpus_soft device_model_args
device_model_args_hvm device_model_args_pv device_model_override
device_model_stubdomain_override device_model_stubdomain_seclabel device_model_user
device_model_version display dm_restrict driver_domain dtdev e820_host extratime
firmware_override gfx_passthru hap hdtype hpet init_seclabel iomem ioports irqs latency
localtime max_event_channels max_grant_frames max_grant_version max_maptrack_frames mca_caps
mmio_hole ms_vm_genid msr_relaxed nestedhvm nographic nomigrate nx on_soft_reset on_watchdog oos
opengl p9 pae passthrough pci pci_msitranslate pci_permissive pci_power_mgmt pci_seize period
pool pvcalls pvshim pvshim_cmdline pvshim_extra pvshim_path rdm rdm_mem_boundary rtc_timeoffset
sdl seclabel shadow_memory slice smbios_firmware soundhw spice spice_clipboard_sharing
spice_image_compression spice_streaming_video spiceagent_mouse spicedisable_ticketing spicehost
spiceport spicetls_port spiceusbredirection spicevdagent stdvga stubdomain_cmdline
stubdomain_kernel stubdomain_memory stubdomain_ramdisk timer_mode tsc_mode usb
usbctrl usbdev usbdevice usbversion vdispl vendor_device vga videoram viridian vkb vkb_device
vmtrace_buf_kb vnuma vpmu vpt_align vsnd vtpm vuart xauthority xen_platform_pci
"""
RESTRICT = "bootloader_restrict"
NEWER = frozenset((RESTRICT, "bootloader_user", "hvm_pirq", "smbios", "virtio"))
"""Keys of Xen 4.18 to 4.20, which 4.17 ignores without a word."""
OTHERS = frozenset(_OTHERS.split())


def check_raw_key(key: str, *, newer: bool = False) -> None:
    """Raise SpecError unless ``raw`` may set ``key`` in an xl config.

    ``newer``: the config is for Xen 4.20, and ``bootloader_restrict`` is written by us.
    """
    where = f"raw.{key}"
    if key in OURS:
        hint = f"the spec's {OURS[key]} decides it"
        if OURS[key] == "boot":
            hint += ", with --boot and --firmware"
        refuse(f"xl's {key} is written by imagekit", where, hint)
    if key in IGNORED:
        refuse(f"xl would not obey {key}", where, IGNORED[key])
    if newer and key == RESTRICT:
        refuse(f"xl's {key} is written by imagekit", where, "leave it out, or name no Xen 4.20")
    if key in NEWER and not newer:
        refuse(
            f"xl of Xen 4.17 knows no key {key}, and would ignore it without a word",
            where,
            "it came with Xen 4.18 to 4.20: --toolstack xl --option xen=4.20, or write it into "
            "the config by hand",
        )
    if key not in OTHERS and key not in NEWER:
        refuse(
            f"xl knows no key {key}, and would ignore it without a word",
            where,
            "see xl.cfg(5) for the spelling",
        )
