"""Defines a domain through libvirt-python (Debian package python3-libvirt)."""

from __future__ import annotations

import importlib

from imagekit.errors import ExistsError, HostError, ToolError


def define(xml: str, uri: str, name: str, *, force: bool = False) -> None:
    """Define (not start) the domain of ``xml`` at the hypervisor of ``uri`` (``xen:///system``).

    libvirt replaces a domain of the same name and UUID; so does this with ``force`` alone. Raises
    ExistsError when there is one of that ``name``, HostError without libvirt-python, ToolError with
    libvirt's own words when the connection or the definition fails. The XML is checked against
    libvirt's schema there as well.
    """
    try:
        libvirt = importlib.import_module("libvirt")
    except ImportError as error:
        raise HostError(
            "libvirt-python is not on this host", hint="apt-get install python3-libvirt"
        ) from error
    try:
        connection = libvirt.open(uri)
        try:
            if not force and name in {domain.name() for domain in connection.listAllDomains()}:
                raise ExistsError(
                    f"there is a domain {name} already",
                    where=uri,
                    hint="--force replaces its definition, or virsh undefine removes it",
                )
            connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        finally:
            connection.close()
    except libvirt.libvirtError as error:
        raise ToolError(
            f"libvirt did not define the domain: {error}",
            where=uri,
            hint="for Xen the URI is xen:///system, on dom0, with libvirtd running",
        ) from error
