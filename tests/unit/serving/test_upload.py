"""The file of a request."""

from __future__ import annotations

import pytest

from collab.errors import InputError
from collab.serving.upload import read_upload


def form(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


DATA = b"\x00\r\n\x89--bytes\r\n\r\n"
FIELD = b'Content-Disposition: form-data; name="x"\r\n\r\n1'
FILE = (
    b'Content-Disposition: form-data; name="f"; filename="../../a.png"\r\nContent-Type: image/PNG\r\n\r\n'
    + DATA
)


def test_a_body_is_the_file_itself():
    upload = read_upload(DATA, "image/png; q=1")
    assert (upload.data, upload.kind) == (DATA, "image/png")


@pytest.mark.parametrize("boundary", ["b", '"b"'])
def test_the_file_of_a_form_comes_without_its_path(boundary):
    upload = read_upload(form(FIELD, FILE), f"multipart/form-data; boundary={boundary}")
    assert upload == (DATA, "image/png", "a.png")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (form(FIELD), "multipart/form-data; boundary=b"),
        (form(FILE), "multipart/form-data"),
        (form(FILE), "multipart/form-data; boundary=other"),
        (form(b"no headers"), "multipart/form-data; boundary=b"),
        (b"", "multipart/form-data; boundary=b"),
        (form(*[FIELD] * 40, FILE), "multipart/form-data; boundary=b"),
    ],
)
def test_a_form_without_a_file_is_refused(body, kind):
    with pytest.raises(InputError, match="multipart/form-data"):
        read_upload(body, kind)
