"""``xe`` with XAPI's rules about parameters, for scripts that a real sh runs.

As in ``ocaml/xapi-cli-server/cli_frontend.ml``, ``cli_operations.ml`` and ``records.ml`` of xen-api
26.9.0: a command ignores a parameter it does not know, a VM starts with 256 MiB and one VCPU,
whatever ``vm-create`` is given, and limits are refused in the wrong order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from oracles import shell_calls
from oracles.shell_calls import Refused

MIB = 1 << 20
Record = dict[str, str]

COMMANDS: dict[str, tuple[set[str], set[str]]] = {
    "pool-list": (set(), {"params", "--minimal"}),
    "network-list": (set(), {"bridge", "params", "--minimal"}),
    "vm-create": ({"name-label"}, {"name-description"}),
    "vm-memory-limits-set": (
        {"static-min", "static-max", "dynamic-min", "dynamic-max"},
        {"uuid"},
    ),
    "vm-param-get": ({"uuid", "param-name"}, {"param-key"}),
    "vm-destroy": ({"uuid"}, set()),
    "vdi-create": ({"sr-uuid", "name-label", "virtual-size"}, {"sharable", "type"}),
    "vdi-import": ({"uuid", "filename"}, {"format", "progress"}),
    "vdi-destroy": ({"uuid"}, set()),
    "vbd-create": (
        {"vm-uuid", "device"},
        {"vdi-uuid", "bootable", "type", "mode", "unpluggable"},
    ),
    "vif-create": ({"device", "network-uuid", "vm-uuid"}, {"mac"}),
}
"""What a command needs and what else it reads."""

VM_FIELDS = {
    *(f"actions-after-{event}" for event in ("shutdown", "reboot", "crash")),
    *(f"PV-{key}" for key in ("bootloader", "bootloader-args", "kernel", "ramdisk", "args")),
    *("PV-legacy-args", "HVM-boot-policy", "domain-type", "VCPUs-max", "VCPUs-at-startup"),
    *(f"memory-{kind}" for kind in ("static-max", "static-min", "dynamic-max", "dynamic-min")),
}
VM_MAPS = {"VCPUs-params", "HVM-boot-params", "platform"}
VIF_FIELDS = {"qos_algorithm_type", "ipv4-allowed", "ipv6-allowed"}
VIF_MAPS = {"qos_algorithm_params"}


@dataclass
class FakeXe:
    """``calls`` in order, ``ignored`` parameters by command, the objects by class and identity."""

    refuse: str = ""
    lie: str = ""
    calls: list[Record] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    vms: dict[str, Record] = field(default_factory=dict)
    vdis: dict[str, Record] = field(default_factory=dict)
    vifs: dict[str, Record] = field(default_factory=dict)

    def __call__(self, command: str, words: list[str]) -> str:
        pairs = [word.partition("=") for word in words]
        assert len({key for key, _, _ in pairs}) == len(pairs)
        given = {key: value for key, _, value in pairs}
        self.calls.append({"": command} | given)
        if command == self.refuse:
            raise Refused("not today")
        if command in ("vm-param-set", "vif-param-set"):
            return self._set(command, given)
        needed, read = COMMANDS[command]
        if missing := needed - set(given):
            raise Refused(f"Required parameters not found: {missing}")
        self.ignored += [(command, key) for key in given if key not in needed | read]
        return self._done(command, given)

    def _done(self, command: str, given: Record) -> str:
        kind, _, verb = command.partition("-")
        objects = {"vm": self.vms, "vdi": self.vdis, "vif": self.vifs}.get(kind, {})
        if command == "vm-create":
            self.vms["vm-1"] = {"name-label": given["name-label"], **_FRESH}
            return "vm-1"
        if verb == "create":
            identity = f"{kind}-{len(self.calls)}"
            objects[identity] = dict(given)
            return identity
        if verb == "destroy":
            del objects[given["uuid"]]
        elif command == "vm-memory-limits-set":
            keys = ("static-min", "dynamic-min", "dynamic-max", "static-max")
            if sorted(int(given[key]) for key in keys) != [int(given[key]) for key in keys]:
                raise Refused("MEMORY_CONSTRAINT_VIOLATION")
            self.vms[given["uuid"]] |= {f"memory-{key}": given[key] for key in keys}
        elif command == "vm-param-get":
            if given["param-name"] == self.lie:
                return "1"
            return self.vms[given["uuid"]][given["param-name"]]
        return {"pool-list": "sr-1", "network-list": "net-1"}.get(command, "")

    def _set(self, command: str, given: Record) -> str:
        vm = command == "vm-param-set"
        fields, maps = (VM_FIELDS, VM_MAPS) if vm else (VIF_FIELDS, VIF_MAPS)
        record = (self.vms if vm else self.vifs)[given["uuid"]]
        for key, value in given.items():
            if key == "uuid":
                continue
            if key not in fields and key.partition(":")[0] not in maps:
                raise Refused(f"Error: Unknown field {key}")
            new = record | {key: value}
            if vm and not 0 < int(new["VCPUs-at-startup"]) <= int(new["VCPUs-max"]):
                raise Refused("VCPU values must satisfy: 0 < VCPUs_at_startup <= VCPUs_max")
            record[key] = value
        return ""


_FRESH = {
    "memory-static-max": str(256 * MIB),
    "memory-dynamic-max": str(256 * MIB),
    "memory-dynamic-min": str(128 * MIB),
    "memory-static-min": str(128 * MIB),
    "VCPUs-max": "1",
    "VCPUs-at-startup": "1",
}


def run(script: str, fake: FakeXe) -> tuple[int, str]:
    """Run ``script`` under sh with ``fake`` for ``xe`` and ``install``; its status and stderr."""

    def install(words: list[str]) -> str:
        fake.calls.append({"": "install", "to": words[-1], "from": words[-2]})
        return ""

    def xe(words: list[str]) -> str:
        return fake(words[0], words[1:])

    status, _, stderr = shell_calls.run(script, {"xe": xe, "install": install})
    return status, stderr
