"""Delegates are used where they are; where not, stages run on XNNPACK and somebody says so."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from collab.backends import backends
from collab.errors import BackendError, ConfigError
from collab.node.config import NodeConfig, RuntimeConfig
from collab.node.device import describe_device
from collab.runtime.delegates import AUTO, LIBRARIES, XNNPACK, choose
from collab.runtime.litert import LiteRT
from collab.runtime.stretched import Stretched
from tests.tflite_builder import ModelBuilder

PLUGIN = """
#include <stddef.h>
#include <stdint.h>
typedef struct Delegate {
  void* data;
  int (*prepare)(void*, struct Delegate*);
  void *from, *to, *release;
  int64_t flags;
  void* builder;
} Delegate;
static int prepare(void* context, Delegate* self) { return 0; }
static Delegate delegate = {NULL, prepare, NULL, NULL, NULL, 0, NULL};
void* tflite_plugin_create_delegate(char** keys, char** values, size_t n, void (*report)(const char*)) {
  REPORT
}
void tflite_plugin_destroy_delegate(void* made) {}
"""


def nothing_loads(library):
    return f"{library}: cannot open shared object file"


def only(*names):
    return lambda library: None if library in names else "missing"


def compiled(tmp_path, body):
    """A delegate's library that does what `body` says when it is asked for one."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    source, library = tmp_path / "plugin.c", tmp_path / "libnull_delegate.so"
    source.write_text(PLUGIN.replace("REPORT", body))
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", library, source], check=True)
    return str(library)


def model():
    b = ModelBuilder()
    b.main.output(b.main.unary("TANH", b.main.input("x", (2, 3)), name="y"))
    return b.build()


def test_xnnpack_needs_no_library():
    assert choose(XNNPACK, nothing_loads).library is None


def test_auto_takes_an_edge_tpu_where_its_library_is_and_says_nothing_where_not():
    assert choose(AUTO, nothing_loads) == choose(XNNPACK)
    found = choose(AUTO, only(LIBRARIES["edgetpu"][0]))
    assert (found.name, found.library) == ("edgetpu", LIBRARIES["edgetpu"][0])


@pytest.mark.parametrize("name", sorted(LIBRARIES))
def test_a_named_delegate_that_is_not_here_is_a_remark_and_xnnpack(name):
    found = choose(name, nothing_loads)
    assert (found.name, found.library) == (XNNPACK, None)
    assert name in found.remark
    assert LIBRARIES[name][0] in found.remark
    assert choose(name, only(LIBRARIES[name][-1])).library == LIBRARIES[name][-1]


def test_a_name_that_is_no_delegate_is_refused():
    with pytest.raises(ConfigError, match=r"runtime\.delegate: 'tpu' is no delegate; use auto, xnnpack"):
        choose("tpu", nothing_loads)


def test_a_path_that_does_not_load_is_a_remark_with_the_loaders_reason(tmp_path):
    path = str(tmp_path / "libno.so")
    backend = LiteRT(path)
    assert "no such file" in backend.remark.lower()
    assert backend.runtime_class() == LiteRT().runtime_class()


def test_a_delegate_that_loads_runs_the_model_and_names_the_class(tmp_path):
    backend = LiteRT(compiled(tmp_path, "return &delegate;"))
    assert backend.remark == ""
    assert backend.runtime_class().delegate == "null_delegate"
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    stage = backend.load(model())
    np.testing.assert_allclose(stage.run([x])[0], np.tanh(x), rtol=1e-5)
    stage.close()


def test_a_delegate_that_does_not_start_is_one_clear_error(tmp_path):
    backend = LiteRT(compiled(tmp_path, 'report("no device is plugged in"); return NULL;'))
    with pytest.raises(BackendError, match=r"does not start: .*no device is plugged in.*xnnpack"):
        backend.load(model())


@pytest.mark.parametrize("stretch", [1.0, 2.0])
def test_a_nodes_setting_reaches_its_back_end_and_its_description(stretch):
    config = NodeConfig(runtime=RuntimeConfig(delegate="/no/such/libdelegate.so"), stretch=stretch)
    backend = backends(config.stretch, config.runtime)["litert"]
    assert isinstance(backend, Stretched) == (stretch != 1)
    (remark,) = describe_device(backend).remarks
    assert remark.startswith("delegate /no/such/libdelegate.so cannot be loaded")
    assert describe_device(LiteRT()).remarks == ()
