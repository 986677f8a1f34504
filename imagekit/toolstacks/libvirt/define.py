"""Defines a domain through libvirt-python (Debian package python3-libvirt)."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

from imagekit.domain.model import Domain
from imagekit.errors import ExistsError, HostError, ToolError


def define(xml: str, domain: Domain, uri: str, *, force: bool = False) -> None:
    """Define (not start) ``domain``, worded as ``xml``, at the hypervisor of ``uri``.

    libvirt replaces a domain of the same name and UUID; so does this with ``force`` alone. Raises
    ExistsError when there is one of that name or UUID, HostError without libvirt-python, ToolError
    with libvirt's own words when the connection or the definition fails. The XML is checked against
    libvirt's schema there as well.
    """
    try:
        libvirt = importlib.import_module("libvirt")
    except ImportError as error:
        raise HostError(
            "libvirt-python is not on this host", hint="apt-get install python3-libvirt"
        ) from error
    # It prints what it raises, unless there is a handler.
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise ToolError(
            f"libvirt cannot be reached: {error}",
            where=uri,
            hint="for Xen the URI is xen:///system, on dom0, with libvirtd running",
        ) from error
    with contextlib.closing(connection):
        try:
            _refuse_taken(connection, domain, uri, force=force)
            connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        except libvirt.libvirtError as error:
            raise ToolError(
                f"libvirt did not define the domain: {error}",
                where=uri,
                hint=f"virsh -c {uri} domcapabilities says what this libvirt can do",
            ) from error


def _refuse_taken(connection: Any, domain: Domain, uri: str, *, force: bool) -> None:
    """Raise ExistsError for a domain that libvirt would replace, or would have to and cannot."""
    for other in connection.listAllDomains():
        name, uuid = other.name(), other.UUIDString()
        if (name, uuid) == (domain.name, domain.uuid):
            if not force:
                raise ExistsError(
                    f"there is a domain {name} already",
                    where=uri,
                    hint="--force replaces its definition, or virsh undefine removes it",
                )
        elif name == domain.name or uuid == domain.uuid:
            raise ExistsError(
                f"there is another domain {name} with the UUID {uuid}, and {domain.name} has "
                f"{domain.uuid}",
                where=uri,
                hint=f"virsh undefine {uuid} removes that one, which --force does not",
            )
