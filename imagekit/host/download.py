"""Downloads of large files: resumed where they broke off, never used before they are whole.

Sources: RFC 9110 (Range, If-Range, Content-Range). Proxies are those of the environment.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imagekit.errors import DownloadError
from imagekit.host import redirects

MAX_BYTES = 64 << 30
CHUNK = 1 << 18
SILENCE_SECONDS = 60.0
TRIES = 5
Progress = Callable[[int, int], None]


def download(
    url: str,
    target: Path,
    *,
    progress: Progress | None = None,
    max_bytes: int = MAX_BYTES,
    pause: float = 2.0,
) -> None:
    """Fetch ``url`` (http or https) to ``target``, which appears only when whole.

    Beside it ``target.part`` keeps what came, also for the next call; it is taken up only when the
    server says that the file is still the same (ETag or Last-Modified). ``progress`` gets bytes
    done and bytes in all (0: unknown). Redirects from https to http are refused. Raises
    DownloadError.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError("only http and https are downloaded", where=shown(url))
    part = target.with_name(f"{target.name}.part")
    for attempt in range(1, TRIES + 1):
        try:
            _once(url, part, progress, max_bytes)
            break
        except DownloadError as error:
            error.where = error.where or shown(url)
            raise
        except urllib.error.HTTPError as error:
            if error.code != 416 and (error.code < 500 or attempt == TRIES):
                raise DownloadError(f"the server says {error.code}", where=shown(url)) from None
            if error.code == 416:
                part.unlink(missing_ok=True)
        except (OSError, HTTPException, ValueError) as error:
            if attempt == TRIES:
                raise DownloadError(f"the download broke: {error}", where=shown(url)) from None
        time.sleep(pause * attempt)
    else:
        raise DownloadError("the server cannot be used", where=shown(url))
    part.replace(target)
    _state(part).unlink(missing_ok=True)


def shown(url: str) -> str:
    """``url`` without a password, for messages."""
    return re.sub(r"//[^/@]*@", "//***@", url)[:300]


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _once(url: str, part: Path, progress: Progress | None, max_bytes: int) -> None:
    have, validator = _resumable(url, part)
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        url, headers={"User-Agent": "imagekit", "Accept-Encoding": "identity"}
    )
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", validator)
    with redirects.opener().open(request, timeout=SILENCE_SECONDS) as response:
        if have and not _continues(response, have):
            have = 0
        length = response.length
        total = have + length if length is not None else 0
        if total > max_bytes:
            raise DownloadError(f"the file has {total} bytes, more than {max_bytes}")
        value = {"url": url, "validator": _validator(response)}
        _state(part).write_text(json.dumps(value))
        with part.open("ab" if have else "wb") as stream:
            done = have
            while block := response.read1(CHUNK):
                done += len(block)
                if done > max_bytes:
                    raise DownloadError(f"more than {max_bytes} bytes came", where=shown(url))
                stream.write(block)
                if progress is not None:
                    progress(done, total)
        if total and done != total:
            raise OSError(f"{total} bytes were announced, {done} came")


def _resumable(url: str, part: Path) -> tuple[int, str]:
    with contextlib.suppress(OSError, ValueError):
        state: Any = json.loads(_state(part).read_text())
        if isinstance(state, dict) and state.get("url") == url and state.get("validator"):
            return part.stat().st_size, str(state["validator"])
    return 0, ""


def _continues(response: HTTPResponse, have: int) -> bool:
    found = re.match(r"bytes (\d+)-", response.getheader("Content-Range") or "")
    return response.status == 206 and found is not None and int(found[1]) == have


def _validator(response: HTTPResponse) -> str:
    tag = response.getheader("ETag") or ""
    # A weak tag does not promise the same bytes (RFC 9110, 8.8.1).
    return tag if tag and not tag.startswith("W/") else response.getheader("Last-Modified") or ""
