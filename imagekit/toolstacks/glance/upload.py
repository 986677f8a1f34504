"""Upload a domain's images to Glance through openstacksdk, which is optional."""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.errors import ExistsError, HostError, SpecError, ToolError
from imagekit.host.outfile import os_errors
from imagekit.toolstacks.glance import errors as glance_errors
from imagekit.toolstacks.glance.emitter import Image, Options, images
from imagekit.toolstacks.tarball import image_for, write_tarball

_ATTEMPTS = 3
_ALGORITHMS = ("sha256", "sha384", "sha512")


def upload(
    domain: Domain,
    facts: BuildFacts,
    options: Options,
    *,
    cloud: str | None = None,
    workdir: Path | None = None,
) -> dict[str, str]:
    """Create the images in the Glance of ``cloud``; their ids by role (kernel, initrd, disk0 ...).

    ``cloud`` names an entry of clouds.yaml, None takes OS_CLOUD or OpenStack's variables. Tarballs
    are made in ``workdir`` (None: the system's place for temporary files) and removed. When
    anything ends it before its time, a signal as well, the images made so far are deleted; one that
    could not be is named in a note of the error, with the command that deletes it. Raises HostError
    without openstacksdk, SpecError for an unknown cloud or a missing file, ExistsError for a name
    that is taken, ToolError when OpenStack refuses, DownloadError when it cannot be reached; and as
    :func:`imagekit.toolstacks.glance.emitter.images`.
    """
    planned = images(domain, facts, options)
    sdk = _sdk()
    with _explained(sdk), contextlib.ExitStack() as undo:
        service = undo.enter_context(_connected(sdk, cloud)).image
        for image in planned:
            _refuse_taken(service, image, cloud)
        ids: dict[str, str] = {}
        for image in planned:
            with _file(facts, image, workdir) as path:
                identity = str(uuid.uuid4())
                made = _Made(service, image.name, identity, _delete_command(cloud))
                undo.enter_context(made)
                with _explained(sdk, image):
                    _create(sdk, made, image, path, ids)
            ids[image.role] = made.identity
    return ids


def _delete_command(cloud: str | None) -> str:
    words = ["openstack", *(["--os-cloud", cloud] if cloud else []), "image", "delete"]
    return shlex.join(words)


def _refuse_taken(service: Any, image: Image, cloud: str | None) -> None:
    found = next(iter(service.images(name=image.name)), None)
    if found is None:
        return
    remove = f"{_delete_command(cloud)} {found.id}"
    if found.status in ("queued", "saving"):
        raise ExistsError(
            f"there is an image called {image.name} already, whose upload never ended (it is "
            f"{found.status})",
            where="glance",
            hint=f"unless somebody is uploading it now, delete it and try again: {remove}",
        )
    raise ExistsError(
        f"there is an image called {image.name} already",
        where="glance",
        hint=f"rename that image, or delete it: {remove}",
    )


def _sdk() -> ModuleType:
    try:
        import openstack
    except ImportError:
        raise HostError(
            "uploading to Glance needs the Python package openstacksdk",
            hint="pip install openstacksdk",
        ) from None
    module: ModuleType = openstack
    return module


@contextlib.contextmanager
def _connected(sdk: ModuleType, cloud: str | None) -> Iterator[Any]:
    connection = sdk.connect(cloud=cloud, app_name="imagekit")
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def _explained(sdk: ModuleType, image: Image | None = None) -> Iterator[None]:
    """Turn what openstacksdk and the libraries under it raise into errors for users."""
    from keystoneauth1.exceptions import ClientException, ConnectFailure, UnknownConnectionError
    from requests import ConnectionError, RequestException

    try:
        yield
    except sdk.exceptions.ConfigException as error:
        raise SpecError(
            str(error), where="cloud", hint="name an entry of clouds.yaml, or set OS_CLOUD"
        ) from error
    except (ConnectFailure, UnknownConnectionError, ConnectionError) as error:
        raise glance_errors.unreachable(str(error), image) from error
    except (sdk.exceptions.SDKException, ClientException, RequestException) as error:
        status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
        if status is None and image is None:
            # No image service where the cloud says that there is one.
            raise glance_errors.unreachable(str(error)) from error
        body = getattr(getattr(error, "response", None), "text", "") or ""
        raise glance_errors.refused(status, f"{error}\n{body}", image) from error


@contextlib.contextmanager
def _file(facts: BuildFacts, image: Image, workdir: Path | None) -> Iterator[Path]:
    if image.handler is None:
        path = Path(image.file)
        if not path.is_file():
            raise SpecError("is not a file that can be uploaded", where=image.file)
        yield path
        return
    source = image_for(facts, image.handler, image.position)
    with tempfile.NamedTemporaryFile(dir=workdir, prefix=".imagekit-", suffix=".tgz") as packed:
        path = Path(packed.name)
        with os_errors(path):
            write_tarball(source, image.handler, packed.file)
            packed.flush()
        yield path


@dataclass
class _Made:
    """An image that is deleted again when what follows fails.

    Its ``identity`` is ours, so that it is known before Glance has ``answered``.
    """

    service: Any
    name: str
    identity: str
    delete_command: str
    answered: bool = False

    def __enter__(self) -> _Made:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *_: object
    ) -> None:
        if error is None:
            return
        try:
            if self._deleted():
                return
        except BaseException as failure:
            self._note(error)
            if not isinstance(failure, Exception):
                self._note(failure)
                raise
            return
        self._note(error)

    def _deleted(self) -> bool:
        for attempt in range(_ATTEMPTS):
            status = self.service.delete(f"/images/{self.identity}").status_code
            if status < 300 or (status == 404 and self.answered):
                return True
            if status != 404:
                return False
            # Glance may be about to make what was asked of it a moment ago.
            time.sleep(0.2 * (attempt + 1))
        return True

    def _note(self, error: BaseException) -> None:
        error.add_note(
            f"the image {self.name} may be left in Glance, unfinished or useless; "
            f"delete it: {self.delete_command} {self.identity}"
        )


def _create(sdk: ModuleType, made: _Made, image: Image, path: Path, ids: dict[str, str]) -> None:
    """Make the image's record, fill it, and compare what Glance got with the file."""
    service = made.service
    record = {
        "id": made.identity,
        "name": image.name,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "min_disk": image.min_disk_gib,
        "min_ram": image.min_ram_mib,
    }
    record |= {item.key: item.value for item in image.properties}
    record |= {key: ids[role] for key, role in image.links}
    answer = service.post("/images", json=record)
    made.answered = True
    sdk.exceptions.raise_from_response(answer)
    url = f"/images/{made.identity}"
    headers = {"Content-Type": "application/octet-stream", "Accept": ""}
    with path.open("rb") as stream:
        answer = service.put(f"{url}/file", data=stream, headers=headers)
    sdk.exceptions.raise_from_response(answer)
    answer = service.get(url)
    sdk.exceptions.raise_from_response(answer)
    _compare(answer.json(), path)


def _compare(record: dict[str, Any], path: Path) -> None:
    algorithm, digest = record.get("os_hash_algo"), record.get("os_hash_value")
    if algorithm not in _ALGORITHMS or not digest:
        algorithm, digest = "md5", record.get("checksum")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, str(algorithm)).hexdigest()
    if record.get("status") != "active" or digest != found:
        raise ToolError(
            f"Glance has not got the whole file: {algorithm} {digest}, not {found}, and the image "
            f"is {record.get('status')}",
            where=str(path),
            hint="try again; glance-api's log says what happened",
        )
