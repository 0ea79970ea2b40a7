"""Snippets: C++ is compiled and gives the bytes that training saw; the rest is compiled where it can be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from collab.assets import path as asset
from collab.core.preprocessing import (
    Category,
    ImageSteps,
    Number,
    Preprocessing,
    Quantisation,
    Scaling,
    TableSteps,
    WindowSteps,
)
from collab.errors import UsageError
from collab.runtime.preprocessing.quantised import to_integers
from collab.runtime.preprocessing.scaling import pixels_to_floats
from collab.runtime.preprocessing.tables import read_table, table_inputs
from collab.runtime.preprocessing.windows import window_input
from collab.toolchain.packaging import Belongings, package
from collab.toolchain.snippets.c_header import c_string, preprocessing_header
from collab.toolchain.snippets.cpp import adder
from collab.toolchain.snippets.facts import Facts
from collab.toolchain.snippets.kotlin import kotlin_string
from collab.toolchain.snippets.swift import swift_string
from collab.toolchain.snippets.write import LANGUAGES, snippet
from collab.updates.bundle.manifest import About, Port
from collab.updates.bundle.read import open_bundle
from collab.updates.bundle.write import write_bundle
from tests.unit.updates.bundle.bundles import parts

STUBS = Path(__file__).parent / "stubs"
RNG = np.random.default_rng(11)
AWKWARD = ('T-shirt/top "x"', "50 $?", "Größe\n", "back\\slash", "汉字 😀")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The demo's model, packaged."""
    belongings = Belongings(
        preprocessing=Preprocessing(steps=ImageSteps(height=28, width=28, colour="grey")),
        labels=(*AWKWARD, *"fghij"),
    )
    out = tmp_path_factory.mktemp("bundle") / "m.collab"
    return package(asset("digits.tflite"), belongings, About(name="digits-v2"), out)


def compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        pytest.skip("g++ is not here")
    return found


def facts_of(steps, dtype: str = "float32") -> Facts:
    shape = Preprocessing(steps=steps).check().input_shape
    scale = None if dtype == "float32" else Quantisation(scale=0.037, zero_point=3)
    port = Port(name="x", shape=(1, *shape), dtype=dtype, quantisation=scale)
    output = Port(name="y", shape=(1, 2), dtype="float32")
    return Facts("m", "M", "0" * 64, port, output, 0, ("a", "b"), steps, ("CONV_2D",), 1024)


def run_header(facts: Facts, raw: np.ndarray, folder: Path) -> np.ndarray:
    """What the compiled header makes of raw values, as the model's input takes it."""
    (folder / "preprocessing.h").write_text(preprocessing_header(facts))
    (folder / "main.cc").write_text(
        '#include <cstdio>\n#include <vector>\n#include "preprocessing.h"\n'
        "int main() {\n"
        f"  std::vector<m::Raw> raw({raw.size});\n"
        "  if (std::fread(raw.data(), sizeof(m::Raw), raw.size(), stdin) != raw.size()) return 2;\n"
        "  std::vector<float> out(m::kInputCount);\n"
        "  if (!m::Prepare(raw.data(), out.data())) return 3;\n"
        "  for (float x : out) { m::Input q = m::ToInput(x); std::fwrite(&q, sizeof q, 1, stdout); }\n"
        "}\n"
    )
    options = ("-std=c++11", "-Wall", "-Werror", "-Wno-unused-variable", "-ffp-contract=off", "-O1")
    subprocess.run([compiler(), *options, "main.cc", "-o", "main"], cwd=folder, check=True, timeout=60)
    done = subprocess.run(
        [folder / "main"], input=raw.tobytes(), stdout=subprocess.PIPE, check=True, timeout=30
    )
    return np.frombuffer(done.stdout, facts.input.dtype)


@pytest.mark.parametrize(("layout", "dtype", "scale"), [("hwc", "float32", 255.0), ("chw", "int8", 127.5)])
def test_pixels_in_cpp_have_the_bytes_that_training_saw(tmp_path, layout, dtype, scale):
    scaling = Scaling(method="standard", shift=(0.485, 0.456, 0.406), width=(0.229, 0.224, 0.225))
    steps = ImageSteps(height=9, width=7, colour="rgb", scale=scale, scaling=scaling, layout=layout)
    facts = facts_of(steps, dtype)
    pixels = RNG.integers(0, 256, (9, 7, 3), np.uint8)
    want = pixels_to_floats(pixels, steps).ravel()
    if facts.input.quantisation is not None:
        want = to_integers(want, facts.input.quantisation, dtype)
    assert run_header(facts, pixels, tmp_path).tobytes() == want.tobytes()


def test_a_row_in_cpp_has_the_bytes_that_training_saw(tmp_path):
    steps = TableSteps(
        columns=(
            Number(name="a", fill=2.5, low=-1.0, high=3.0, shift=0.1, width=0.7),
            Category(name='c"', values=("red", "blue", "x"), fill="blue"),
            Number(name="b", fill=None, shift=1e9, width=3.0),
            Category(name="d", values=("p", "q"), encoding="ordinal"),
        )
    )
    path = tmp_path / "x.csv"
    path.write_text('a,c",b,d\n,NA,1000000001.7,q\n')
    want = table_inputs(read_table(path), steps)[0]
    raw = np.array([np.nan, np.nan, 1000000001.7, 1.0])
    assert run_header(facts_of(steps), raw, tmp_path).tobytes() == want.tobytes()


@pytest.mark.parametrize("feature", ["raw", "moments", "spectrum"])
def test_a_window_in_cpp_is_what_training_saw(tmp_path, feature):
    steps = WindowSteps(
        channels=("x", "y"),
        length=16,
        step=8,
        low=(None, -1.0),
        high=(1.5, None),
        scaling=Scaling(method="standard", shift=(0.1, 0.2), width=(0.9, 1.1)),
        feature=feature,
    )
    samples = RNG.normal(size=(16, 2))
    got, want = run_header(facts_of(steps), samples, tmp_path), window_input(samples, steps).ravel()
    if feature == "raw":
        assert got.tobytes() == want.tobytes()
    assert np.allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("language", ["cpp", "micro"])
def test_cpp_compiles_against_the_public_interface(digits, language, tmp_path):
    for name, data in snippet(digits, language).items():
        (tmp_path / name).write_bytes(data)
    sources = [name for name in ("classifier.h", "classifier.cc") if (tmp_path / name).exists()]
    options = (
        "-std=c++17",
        "-fsyntax-only",
        "-Wall",
        "-Werror",
        "-Wno-unused-variable",
        "-Wno-unused-function",
    )
    includes = (f"-I{STUBS}", "-x", "c++")
    subprocess.run([compiler(), *options, *includes, *sources], cwd=tmp_path, check=True, timeout=60)


def test_kotlin_compiles(digits, tmp_path):
    if shutil.which("kotlinc") is None:
        pytest.skip("kotlinc is not here")
    (tmp_path / "m.kt").write_bytes(snippet(digits, "kotlin")["DigitsV2.kt"])
    files = [str(tmp_path / "m.kt"), str(STUBS / "Interpreter.kt")]
    subprocess.run(["kotlinc", *files, "-d", str(tmp_path / "out")], check=True, timeout=300)


def test_swift_parses(digits, tmp_path):
    if shutil.which("swiftc") is None:
        pytest.skip("swiftc is not here")
    (tmp_path / "m.swift").write_bytes(snippet(digits, "swift")["DigitsV2.swift"])
    subprocess.run(["swiftc", "-parse", str(tmp_path / "m.swift")], check=True, timeout=300)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_snippet_has_all_constants_and_balanced_brackets(digits, language):
    files = snippet(digits, language)
    assert files == snippet(digits, language)
    text = "".join(data.decode() for name, data in files.items() if not name.startswith("model"))
    assert digits.digest in text
    assert "@" not in text
    code = text.replace('"', "")
    for left, right in ("()", "[]", "{}"):
        assert code.count(left) == code.count(right)
    for constant in ("784", "255", "28"):
        assert constant in text
    if language != "micro":
        assert files["model.tflite"] == digits.model()


def test_labels_are_literals_of_their_language():
    assert c_string('ä"\\?') == r'"\303\244\042\134\077"'
    assert kotlin_string("a$b\n😀") == r'"a\u0024b\u000a\ud83d\ude00"'
    assert swift_string('a"😀') == r'"a\u{22}\u{1f600}"'


@pytest.mark.parametrize(
    ("operator", "method"),
    [
        ("CONV_2D", "AddConv2D"),
        ("RELU6", "AddRelu6"),
        ("FULLY_CONNECTED", "AddFullyConnected"),
        ("ADD", "AddAdd"),
    ],
)
def test_operators_are_registered_by_their_method(operator, method):
    assert adder(operator) == method


def test_what_no_snippet_can_do_is_said(digits, tmp_path):
    with pytest.raises(UsageError, match="give kotlin, swift, cpp or micro"):
        snippet(digits, "cobol")
    bare = write_bundle(tmp_path / "b.collab", parts(preprocessing=None))
    with pytest.raises(UsageError, match="has no preprocessing"):
        snippet(open_bundle(bare.path), "cpp")
