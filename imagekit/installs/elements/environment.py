"""The environment that disk-image-create gives to elements, as it gives it.

Source: lib/disk-image-create, lib/common-defaults, lib/img-defaults and ``arg_to_elements`` of
lib/common-functions in diskimage-builder 3.x.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence

from imagekit.errors import SpecError
from imagekit.installs.elements.catalogue import Element, library_path
from imagekit.installs.elements.hooks import PROGRAMS, TRACE

BUILD = "/imagekit/build"
ELEMENTS = "/imagekit/elements"
CACHE = "/imagekit/cache"
OUTPUT = "/imagekit/output"
HOOKS = f"{BUILD}/hooks"
TREE = f"{BUILD}/mnt"
IN_TARGET = "/tmp/in_target.d"  # noqa: S108 - where disk-image-create shows the hooks in a tree
OUTSIDE_PATH = "/imagekit/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INSIDE_PATH = f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{IN_TARGET}/{PROGRAMS}"
OURS = {
    *("PATH", "HOME", "BASH_ENV", "ENV", "TMP_BUILD_DIR", "TMP_HOOKS_PATH", "TMP_MOUNT_PATH"),
    *("TARGET_ROOT", "ELEMENTS_PATH", "IMAGE_ELEMENT", "IMAGE_ELEMENT_YAML", "_LIB", "ARCH"),
}
"""Variables that a spec may not set, because what we set them to is where things are."""


DEFAULTS = {
    "LC_ALL": "C",
    "HOME": "/root",
    "USER": "root",
    "TZ": "UTC",
    "DEBIAN_FRONTEND": "noninteractive",
    "DIB_INIT_SYSTEM": "systemd",
    # The element dib-python would ask for Python 2 on Debian, which has had none since 11.
    "DIB_PYTHON_VERSION": "3",
    "DIB_CHECKSUM": "0",
    "DIB_DEBUG_TRACE": "0",
    "DIB_DEFAULT_INSTALLTYPE": "source",
    "DIB_NO_TMPFS": "1",
    "DIB_MIN_TMPFS": "2",
    "DIB_OFFLINE": "",
    "DIB_IMAGE_CACHE": CACHE,
    "DIB_LOCKFILES": f"{CACHE}/lockfiles",
    "DIB_ROOT_LABEL": "root",
    "DIB_BOOT_LABEL": "",
    "DIB_MOUNTPOINTS": "/",
    # A bind mount of the host's package cache: imagekit has its own cache of whole stages.
    "DIB_APT_LOCAL_CACHE": "0",
    # imagekit makes the initrd, once, when all elements have run.
    "DIB_INITRD_LATER": "1",
    "IMAGE_TYPE": "raw",
}
"""Variables that a spec may set otherwise."""
FIXED = {
    "ELEMENTS_PATH": ELEMENTS,
    "TMP_BUILD_DIR": BUILD,
    "TMP_IMAGE_DIR": OUTPUT,
    "TMP_HOOKS_PATH": HOOKS,
    "TMP_MOUNT_PATH": TREE,
    "TARGET_ROOT": TREE,
}
"""Where things are in the sandbox."""
HOST_PATHS = ("DIB_PYTHON_EXEC", "_LIB")
"""Variables whose values tell where imagekit is installed; they change no result."""


def base_environment(
    elements: Sequence[Element],
    *,
    named: Sequence[str],
    image: str,
    distribution: str,
    suite: str,
    arch: str,
    filesystem: str,
    extra: Mapping[str, str],
) -> dict[str, str]:
    """Variables of every phase; ``extra`` is the spec's own and wins over defaults.

    Raises SpecError for a variable in ``extra`` that is ours to set.
    """
    refused = sorted(name for name in extra if name in OURS or not name.isidentifier())
    if refused:
        raise SpecError(f"{refused[0]} is not a variable that a spec may set")
    names = [e.name for e in elements]
    array = " ".join(f"[{name}]={ELEMENTS}/{name}" for name in names)
    declared = "\n".join(
        f"declare -x {name}={shlex.quote(value)}"
        for name, value in sorted(extra.items())
        if name.startswith("DIB_")
    )
    return {
        **DEFAULTS,
        "DISTRO_NAME": distribution,
        "DIB_RELEASE": suite,
        "DIB_ARGS": " ".join(named),
        "DIB_ENV": declared,
        "DIB_PYTHON_EXEC": sys.executable,
        "DIB_ROOT_FSTYPE": filesystem,
        "FS_TYPE": filesystem,
        "IMAGE_NAME": image,
        **extra,
        **FIXED,
        "ARCH": arch,
        "IMAGE_ELEMENT": " ".join(names),
        "IMAGE_ELEMENT_YAML": "".join(f"{name}: {ELEMENTS}/{name}\n" for name in names),
        "_LIB": str(library_path("lib")),
        # Functions that disk-image-create exports, in bash's own wording of them.
        "BASH_FUNC_get_image_element_array%%": f'() {{ echo "{array}"\n}}',
        "BASH_FUNC_die%%": '() { local code=$?; echo "$@"; exit $code\n}',
    }


def for_disk_image_create(base: Mapping[str, str]) -> dict[str, str]:
    """The environment of the whole of disk-image-create, which sets the rest by itself."""
    own = ("IMAGE_ELEMENT", "IMAGE_ELEMENT_YAML", "TARGET_ROOT", "IMAGE_NAME", "IMAGE_TYPE")
    kept = {k: v for k, v in base.items() if not k.startswith(("TMP_", "BASH_FUNC_", *own))}
    return {**kept, "PATH": OUTSIDE_PATH, "TMP_DIR": BUILD, "DIB_NO_TIMESTAMP": "1"}


def making_root(base: Mapping[str, str]) -> dict[str, str]:
    """``base`` with what tells debootstrap that it cannot make device nodes, and goes on."""
    return {**base, "container": "lxc"}


def outside(base: Mapping[str, str]) -> dict[str, str]:
    """The environment of scripts that run beside the tree."""
    return {**base, "PATH": OUTSIDE_PATH, "BASH_ENV": f"{HOOKS}/{TRACE}"}


def inside(base: Mapping[str, str]) -> dict[str, str]:
    """The environment of scripts that run in the tree (``run_in_target``)."""
    left_out = ("TMPDIR", "VIRTUAL_ENV")
    kept = {k: v for k, v in base.items() if k not in left_out}
    return {**kept, "PATH": INSIDE_PATH, "BASH_ENV": f"{IN_TARGET}/{TRACE}"}
