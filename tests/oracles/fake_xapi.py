"""A small XAPI on loopback: checks every call's types, keeps what was made and uploaded.

XML-RPC on ``POST /``, uploads on ``PUT /import_raw_vdi`` and ``PUT /import``, which it answers
before it reads the body, as XAPI does. ``quirks`` make it misbehave.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

NULL = "OpaqueRef:NULL"
STRING, INTEGER, BOOL, MAP, SET = "string", "integer", "bool", "map", "set"
# What the constructors insist on (ocaml/idl/datamodel*.ml): every key, and its type on the wire.
FIELDS = {
    "VM": {
        **dict.fromkeys(("name_label", "name_description", "affinity", "PCI_bus"), STRING),
        **dict.fromkeys(("recommendations", "domain_type"), STRING),
        **dict.fromkeys(("PV_bootloader", "PV_bootloader_args", "PV_kernel"), STRING),
        **dict.fromkeys(("PV_ramdisk", "PV_args", "PV_legacy_args", "HVM_boot_policy"), STRING),
        **dict.fromkeys(("actions_after_shutdown", "actions_after_reboot"), STRING),
        "actions_after_crash": STRING,
        **dict.fromkeys(("memory_static_max", "memory_dynamic_max"), INTEGER),
        **dict.fromkeys(("memory_dynamic_min", "memory_static_min"), INTEGER),
        **dict.fromkeys(("VCPUs_max", "VCPUs_at_startup", "user_version"), INTEGER),
        **dict.fromkeys(("VCPUs_params", "HVM_boot_params", "platform", "other_config"), MAP),
        "is_a_template": BOOL,
    },
    "VDI": {
        **dict.fromkeys(("name_label", "name_description", "SR", "type"), STRING),
        "virtual_size": INTEGER,
        **dict.fromkeys(("sharable", "read_only"), BOOL),
        **dict.fromkeys(("other_config", "xenstore_data", "sm_config"), MAP),
        "tags": SET,
    },
    "VBD": {
        **dict.fromkeys(("VM", "VDI", "userdevice", "mode", "type"), STRING),
        **dict.fromkeys(("bootable", "unpluggable", "empty"), BOOL),
        **dict.fromkeys(("other_config", "qos_algorithm_params"), MAP),
        "qos_algorithm_type": STRING,
    },
    "VIF": {
        **dict.fromkeys(("device", "network", "VM", "MAC", "qos_algorithm_type"), STRING),
        "MTU": INTEGER,
        **dict.fromkeys(("other_config", "qos_algorithm_params"), MAP),
    },
}


class Refused(Exception):
    """A call XAPI would refuse; its arguments are the ErrorDescription."""


class FakeXapi:
    """The pool's state. ``uploads`` are the digests of what came in, by VDI or ``xva``."""

    def __init__(self, **quirks: Any) -> None:
        self.quirks = quirks
        self.calls: list[str] = []
        self.sessions: set[str] = set()
        self.objects: dict[str, tuple[str, dict[str, Any]]] = {
            "OpaqueRef:pool": ("pool", {"default_SR": "OpaqueRef:sr"}),
            "OpaqueRef:sr": ("SR", {"uuid": "uuid-sr", "name_label": "Local storage"}),
            "OpaqueRef:sr2": ("SR", {"uuid": "uuid-sr2", "name_label": "Fast"}),
            "OpaqueRef:net": ("network", {"uuid": "u1", "name_label": "LAN", "bridge": "xenbr0"}),
            "OpaqueRef:net2": ("network", {"uuid": "u2", "name_label": "DMZ", "bridge": "xenbr1"}),
        }
        self.uploads: dict[str, tuple[str, int, dict[str, str]]] = {}
        self.url = ""

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The records of a class, in the order they were made."""
        return [record for k, record in self.objects.values() if k == kind]

    def answer(self, method: str, params: list[Any]) -> Any:
        """The result of a call; raises Refused."""
        self.calls.append(method)
        if method in self.quirks.get("refuse", ()):
            raise Refused("NOT_TODAY", method)
        kind, _, verb = method.partition(".")
        if method == "session.login_with_password":
            if self.quirks.get("slave"):
                raise Refused("HOST_IS_SLAVE", "192.0.2.9")
            if params[:2] != ["root", "secret"]:
                raise Refused("SESSION_AUTHENTICATION_FAILED")
            self.sessions.add("OpaqueRef:session")
            return "OpaqueRef:session"
        session, *rest = params
        if session not in self.sessions:
            raise Refused("SESSION_INVALID", session)
        if method == "session.logout":
            self.sessions.remove(session)
            return ""
        if verb == "create" and kind in FIELDS:
            return self._create(kind, rest)
        if method == "task.create":
            return self._add("task", {"status": "pending", "result": "", "error_info": []})
        if verb == "get_all_records":
            return {ref: r for ref, (k, r) in self.objects.items() if k == kind}
        (reference,) = rest
        if self.objects.get(reference, ("",))[0] != kind:
            raise Refused("HANDLE_INVALID", kind, reference)
        if verb == "destroy":
            del self.objects[reference]
            return ""
        return self.objects[reference][1][verb.removeprefix("get_")]

    def _create(self, kind: str, rest: list[Any]) -> str:
        (record,) = rest
        missing = set(FIELDS[kind]) - set(record)
        if missing:
            raise Refused("FIELD_MISSING", kind, *sorted(missing))
        for key, wanted in FIELDS[kind].items():
            if not _fits(record[key], wanted):
                raise Refused("FIELD_TYPE_ERROR", kind, key)
        for key in ("VM", "VDI", "network", "SR"):
            target = record.get(key, NULL)
            if target != NULL and self.objects.get(target, ("",))[0] != key:
                raise Refused("HANDLE_INVALID", key, str(target))
        if kind == "VBD" and (record["VDI"] == NULL) != record["empty"]:
            raise Refused("VBD_IS_EMPTY")
        return self._add(kind, dict(record))

    def _add(self, kind: str, record: dict[str, Any]) -> str:
        reference = f"OpaqueRef:{kind.lower()}-{len(self.objects)}-{len(self.calls)}"
        record["uuid"] = f"uuid-{reference}"
        self.objects[reference] = kind, record
        return reference

    def finish(self, query: dict[str, str], digest: str, size: int) -> None:
        """Take an upload in, and end its task."""
        task = self.objects[query["task_id"]][1]
        task["status"] = "success"
        if "vdi" in query:
            self.uploads[query["vdi"]] = digest, size, query
        else:
            self.uploads["xva"] = digest, size, query
            vm = self._add("VM", {})
            task["result"] = f"<value><array><data><value>{vm}</value></data></array></value>"
        if self.quirks.get("bad_task"):
            task |= {"status": "failure", "error_info": ["VDI_IO_ERROR", "disk full"]}


def _fits(value: Any, wanted: str) -> bool:
    if wanted == INTEGER:
        return isinstance(value, str) and value.lstrip("-").isdigit()
    if wanted == MAP:
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    return isinstance(value, {STRING: str, BOOL: bool, SET: list}[wanted])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeXapi

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "raw_answer" in self.fake.quirks:
            self._send(200, self.fake.quirks["raw_answer"])
            return
        params, method = xmlrpc.client.loads(body)
        try:
            result = {"Status": "Success", "Value": self.fake.answer(str(method), list(params))}
        except Refused as error:
            result = {"Status": "Failure", "ErrorDescription": list(error.args)}
        self._send(200, xmlrpc.client.dumps((result,), methodresponse=True).encode())

    def do_PUT(self) -> None:
        self.close_connection = True
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        size = int(self.headers["Content-Length"])
        quirks = self.fake.quirks
        if query.get("session_id") not in self.fake.sessions:
            self._send(403, b"no session")
            return
        if target := quirks.get("redirect"):
            self.send_response(302)
            self.send_header("Location", target if urlsplit(target).path else target + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            if not quirks.get("redirect_for_ever"):
                del quirks["redirect"]
            return
        if status := quirks.get("put_status"):
            self._send(status, b"the storage is away")
            return
        if not quirks.get("late_answer"):
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
        digest, left = hashlib.sha256(), size
        while left:
            data = self.rfile.read(min(left, 1 << 20))
            assert data
            digest.update(data)
            left -= len(data)
            if quirks.get("hang_up"):
                self.connection.close()
                return
        self.fake.finish(query, digest.hexdigest(), size)
        if quirks.get("late_answer"):
            self._send(200, b"")

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is not this server's trouble."""


@contextmanager
def running(certificate: Path | None = None, **quirks: Any) -> Iterator[FakeXapi]:
    """A fake pool that serves on ``fake.url``; https with a PEM file of key and certificate."""
    fake = FakeXapi(**quirks)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    fake.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
