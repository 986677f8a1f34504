"""Whether a lab may run by KVM: only where KVM runs kernels, and they may run guests in turn.

Xen needs the processor's virtualisation for PVH and HVM guests, so KVM has to offer it to its own
guest (Linux Documentation/virt/kvm/x86/running-nested-guests.rst).
"""

from __future__ import annotations

from pathlib import Path

from imagekit.host.kvm import KvmVerdict, kvm_works

MODULES = Path("/sys/module")
PARAMETERS = ("kvm_intel/parameters/nested", "kvm_amd/parameters/nested")


def nested_kvm(modules: Path = MODULES) -> KvmVerdict:
    """Whether KVM works here and offers virtualisation to its guests, and how that is known.

    ``modules`` is /sys/module. Whether Xen is happy with it is for the lab's self-check to say.
    """
    verdict = kvm_works()
    if not verdict.works:
        return verdict
    for name in PARAMETERS:
        try:
            value = (modules / name).read_text().strip()
        except OSError:
            continue
        if value in ("1", "Y", "y"):
            return KvmVerdict(True, f"/sys/module/{name} is {value}")
        return KvmVerdict(False, f"nested virtualisation is off: /sys/module/{name} is {value}")
    return KvmVerdict(False, "KVM runs kernels, and nothing says that it offers nesting")
