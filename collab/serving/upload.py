"""The one file of a request: its body, or the first file of a form.  No I/O."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from collab.errors import InputError

MAX_PARTS: Final = 16
_BOUNDARY: Final = re.compile(r'boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
"""RFC 2046, section 5.1.1: at most 70 characters."""
_NAME: Final = re.compile(r'filename="([^"\r\n]*)"', re.IGNORECASE)


class Upload(NamedTuple):
    """A file's bytes, its content type in small letters, and what its sender calls it."""

    data: bytes
    kind: str
    name: str


def read_upload(body: bytes, content_type: str) -> Upload:
    """The file of a body, which is that or ``multipart/form-data`` (RFC 7578); raises `InputError`."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return Upload(body, kind, "the file")
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise InputError("multipart/form-data: the content type names no boundary")
    mark = b"\r\n--" + (found[1] or found[2]).encode("latin-1")
    parts = (b"\r\n" + body).split(mark, MAX_PARTS + 1)
    if len(parts) < 3:
        raise InputError("multipart/form-data: there is no part between its boundaries")
    for part in parts[1:-1]:
        head, blank, data = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not blank or len(head) > 4096:
            raise InputError("multipart/form-data: a part has no headers of its own")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (
                line.partition(":") for line in head.decode("utf-8", "replace").split("\r\n")
            )
        }
        called = _NAME.search(headers.get("content-disposition", ""))
        if called is not None:
            own = headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
            return Upload(data, own, _plain(called[1]) or "the file")
    raise InputError("multipart/form-data: no part is a file; send one with a filename")


def _plain(name: str) -> str:
    """A name for messages; it is never a path here."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:80]
