"""A C array holds the model byte for byte, and compilers of C and C++ take it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from collab.errors import ModelError, UsageError
from collab.toolchain.convert.c_array import array_bytes, c_header, c_source, variable_name
from collab.toolchain.convert.converting import convert
from tests.tflite_builder import ModelBuilder


@pytest.mark.parametrize("data", [b"", b"\0", bytes(range(256)) * 3])
def test_the_bytes_come_back(data):
    assert array_bytes(c_source(data, "g_model", "model.h").encode()) == data


def test_what_holds_no_array_is_refused():
    with pytest.raises(ModelError, match="no array"):
        array_bytes(b"int x;")


def test_the_array_is_named_after_its_file():
    assert variable_name(Path("a/int.cc")) == "g_int"
    assert variable_name(Path("2-mobile net.c")) == "g_2_mobile_net"
    with pytest.raises(UsageError, match=r"ends in \.c, \.cc"):
        variable_name(Path("model.txt"))


@pytest.mark.parametrize(("compiler", "suffix"), [("gcc", ".c"), ("g++", ".cc")])
def test_a_compiled_array_is_the_model(tmp_path, compiler, suffix):
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    b = ModelBuilder()
    b.main.output(b.main.unary("TANH", b.main.input("x", (2, 3)), name="y"))
    model = tmp_path / "m.tflite"
    model.write_bytes(b.build())
    out = tmp_path / f"m{suffix}"
    done = convert(model, "c", out, None, 0.0)
    assert set(done.files) == {out, tmp_path / "m.h"}
    library = tmp_path / "libm_array.so"
    strict = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *strict, "-o", library, out], check=True, cwd=tmp_path)
    loaded = ctypes.CDLL(str(library))
    length = ctypes.c_uint.in_dll(loaded, "g_m_len").value
    array = (ctypes.c_ubyte * length).in_dll(loaded, "g_m")
    assert bytes(array) == model.read_bytes()
    assert ctypes.addressof(array) % 16 == 0


def test_the_header_names_what_the_source_has():
    header = c_header("g_m", "ab" * 32)
    assert "extern const unsigned char g_m[];" in header
    assert "extern const unsigned int g_m_len;" in header
