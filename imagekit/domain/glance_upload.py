"""Upload a domain's images to Glance through openstacksdk, which is optional."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from imagekit.disk.output import os_errors
from imagekit.domain.facts import BuildFacts
from imagekit.domain.glance import Image, Options, images
from imagekit.domain.model import Domain
from imagekit.domain.tarball import image_for, write_tarball
from imagekit.errors import ExistsError, HostError, SpecError, ToolError

TIMEOUT_SECONDS = 3600


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
    are made in ``workdir`` (None: the system's place for temporary files) and removed. When an
    upload fails, the images made before it are deleted. Raises HostError without openstacksdk,
    SpecError for an unknown cloud or a missing file, ExistsError for a name that is taken,
    ToolError when OpenStack refuses; and as :func:`imagekit.domain.glance.images`.
    """
    planned = images(domain, facts, options)
    sdk = _sdk()
    with _explained(sdk), contextlib.ExitStack() as undo:
        service = undo.enter_context(_connected(sdk, cloud)).image
        for image in planned:
            if next(iter(service.images(name=image.name)), None) is not None:
                raise ExistsError(
                    f"there is an image called {image.name} already",
                    where="glance",
                    hint="delete or rename that image",
                )
        ids: dict[str, str] = {}
        for image in planned:
            with _file(facts, image, workdir) as path:
                ids[image.role] = _create(service, image, path, ids)
            undo.push(_removal(sdk, service, ids[image.role]))
    return ids


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
def _explained(sdk: ModuleType) -> Iterator[None]:
    """Turn what openstacksdk and the libraries under it raise into errors for users."""
    from keystoneauth1.exceptions import ClientException
    from requests import RequestException

    try:
        yield
    except sdk.exceptions.ConfigException as error:
        raise SpecError(
            str(error), where="cloud", hint="name an entry of clouds.yaml, or set OS_CLOUD"
        ) from error
    except (sdk.exceptions.SDKException, ClientException, RequestException) as error:
        raise ToolError(
            f"OpenStack refused the image: {type(error).__name__}",
            where="glance",
            hint="check the cloud's address, credentials and quota",
            output="\n".join([str(error)[:4000], *getattr(error, "__notes__", ())]),
        ) from error


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


def _create(service: Any, image: Image, path: Path, ids: dict[str, str]) -> str:
    properties = {item.key: item.value for item in image.properties}
    properties |= {key: ids[role] for key, role in image.links}
    created = service.create_image(
        image.name,
        filename=str(path),
        disk_format=image.disk_format,
        container_format=image.container_format,
        min_disk=image.min_disk_gib,
        min_ram=image.min_ram_mib,
        allow_duplicates=True,
        # The service takes what is in meta as it is, without guessing at types.
        meta=properties,
        validate_checksum=True,
        wait=True,
        timeout=TIMEOUT_SECONDS,
    )
    return str(created.id)


def _removal(sdk: ModuleType, service: Any, identity: str) -> Callable[..., bool]:
    """What deletes an image when a later step fails; the error names it when that fails too."""

    def undo(kind: type[BaseException] | None, error: BaseException | None, *_: object) -> bool:
        if error is None:
            return False
        try:
            service.delete_image(identity)
        except sdk.exceptions.SDKException:
            error.add_note(f"the image {identity} could not be deleted and is still there")
        return False

    return undo
