"""What Glance, Keystone or the network between said, told apart for users.

Glance's answers: ``glance/api/v2/image_data.py`` and ``images.py``; Keystone's: the Identity API.
"""

from __future__ import annotations

import html
import re

from imagekit.errors import DownloadError, ImagekitError, ToolError
from imagekit.toolstacks.glance.emitter import Image

_MAX_OUTPUT = 4000
_MAX_ANSWER = 64 * 1024
_LOG = "the log of glance-api on its host says what happened"
_STATUS = {
    401: (
        "OpenStack does not accept the credentials",
        "check user, password, project and domain; 'openstack token issue' tries them",
    ),
    403: (
        "OpenStack forbids this user to do that",
        "ask an administrator for a role that may create images, or for a larger quota of them",
    ),
    404: (
        "the image, or the address asked for, is not there any more",
        "check the endpoint of the image service; somebody may have deleted the image",
    ),
    409: (
        "the image was changed by somebody else meanwhile",
        "find out who uses its name or id, and try again",
    ),
    410: ("the image was deleted during the upload", "find out who did, and try again"),
    503: ("the image service cannot write to its storage, or is not up", _LOG),
}
_FULL = (
    "the storage of the image service is full",
    "an administrator has to make room where Glance keeps its images",
)
_QUOTA = (
    "the image goes over the project's quota of storage",
    "delete images of the project, or ask for a larger user_storage_quota or limit",
)
_TOO_LARGE = (
    "the image is larger than this Glance takes",
    "an administrator can raise image_size_cap in glance-api.conf; qcow2 and vhd are smaller",
)


def refused(status: int | None, text: str, image: Image | None = None) -> ImagekitError:
    """The error for an HTTP ``status``, with what the server said in ``text``."""
    # Glance answers in HTML, which openstacksdk leaves out of its own words.
    text = html.unescape(re.sub(r"<[^<>]{1,100}>", "", text[:_MAX_ANSWER]))
    text = re.sub(r"\s*\n\s*", "\n", text).strip()
    what, hint = _words(status, text, image)
    where = "glance" if image is None else f"glance: {image.name}"
    return ToolError(what, where=where, hint=hint, output=text[:_MAX_OUTPUT])


def unreachable(text: str, image: Image | None = None) -> ImagekitError:
    """The error for a connection that was refused, never made or cut off."""
    if "refused" in text.lower():
        what, hint = "nothing listens at OpenStack's address", "check its URL; is the service up?"
    elif image is not None:
        what = "the connection to Glance was cut off"
        hint = f"Glance ended, or refused the image for its size or a full storage; {_LOG}"
    else:
        what = "OpenStack's image service cannot be reached"
        hint = "check the address of the cloud, and that the service there answers this user"
    return DownloadError(f"{what}: {text[:500]}", where="glance", hint=hint)


def _words(status: int | None, text: str, image: Image | None) -> tuple[str, str]:
    lower = text.lower()
    if status == 413 or status == 507:
        if status == 507 or "full" in lower or "disk space" in lower:
            return _FULL
        return _QUOTA if "quota" in lower else _TOO_LARGE
    if status == 400 and image is not None:
        for key, value in (
            ("container_format", image.container_format),
            ("disk_format", image.disk_format),
        ):
            if key in lower or f"'{value}'" in lower:
                return (
                    f"this Glance takes no {key} {value}",
                    f"an administrator adds {value} to {key}s in the section [image_format] of "
                    "glance-api.conf; the default has no tgz",
                )
    if status in _STATUS:
        return _STATUS[status]
    return f"OpenStack refused the image{f' ({status})' if status else ''}", _LOG
