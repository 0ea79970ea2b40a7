"""The back end in memory: it checks what its functions give, so that tests notice."""

from __future__ import annotations

import numpy as np
import pytest

from collab.core.tensor import TensorSpec
from collab.errors import BackendError, ModelError, TensorError
from collab.runtime.function import Functions

X = TensorSpec("x", (2,), "float32")


def load(function):
    return Functions({b"f": (function, (X,), (X,))}).load(b"f", 1)


def test_a_function_that_gives_something_else_is_noticed():
    x = np.zeros(2, np.float32)
    with pytest.raises(BackendError, match="function gave 2 tensors, not 1"):
        load(lambda arrays: [x, x]).run([x])
    with pytest.raises(TensorError, match="dtype float64, expected float32"):
        load(lambda arrays: [x.astype("float64")]).run([x])


def test_what_a_function_keeps_is_not_what_the_caller_gets():
    own = np.zeros(2, np.float32)
    stage = load(lambda arrays: [own])
    (made,) = stage.run([own])
    made[:] = 5
    assert own.tolist() == [0, 0]


def test_an_unknown_name_is_shown_in_part():
    with pytest.raises(ModelError, match="no function is registered under b'zzz") as caught:
        Functions({}).load(b"z" * 10_000, 1)
    assert len(str(caught.value)) < 100
