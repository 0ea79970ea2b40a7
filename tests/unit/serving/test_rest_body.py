"""Bodies of the REST protocol: what is read from them, what is refused, what is written."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.core.tensor import TensorSpec
from collab.core.token import Priority
from collab.errors import CollabError, InputError, RequestError, TensorError
from collab.serving.datatypes import TO_NUMPY
from collab.serving.inference import Answer
from collab.serving.rest_body import parse_call, write_answer
from tests.unit.serving.stand_in import plan


def body(**changes) -> dict:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2.5]} | changes
    return {"inputs": [{name: value for name, value in tensor.items() if value is not None}]}


def parse(document: dict, tail: bytes = b"", of=None, **more):
    head = json.dumps(document | more).encode()
    return parse_call(head + tail, len(head) if tail else None, of or plan(), 30.0)


@pytest.mark.parametrize("data", [[1, 2.5], [[1, 2.5]], [[1.0, 2.5]]])
def test_data_is_flat_or_nested(data):
    assert parse(body(data=data)).call.inputs["x"].tolist() == [[1, 2.5]]


@pytest.mark.parametrize("datatype", TO_NUMPY)
def test_every_datatype_goes_in_and_out_in_either_form(datatype):
    dtype = np.dtype(TO_NUMPY[datatype])
    array = np.array([[1, 0]]).astype(dtype)
    of = plan(inputs=(TensorSpec("x", (1, 2), dtype.name),), outputs=(TensorSpec("y", (1, 2), dtype.name),))
    raw = parse(
        body(datatype=datatype, data=None, parameters={"binary_data_size": array.nbytes}), array.tobytes(), of
    )
    typed = parse(body(datatype=datatype, data=array.ravel().tolist()), of=of)
    for call in (raw.call, typed.call):
        assert call.inputs["x"].dtype == dtype
        assert call.inputs["x"].tobytes() == array.tobytes()
    answer = Answer("m", "3", "", {"y": array}, {})
    told = write_answer(answer, frozenset("y"))
    assert told.data[told.head_bytes :] == array.tobytes()
    (output,) = json.loads(told.data[: told.head_bytes])["outputs"]
    assert output == {
        "name": "y", "datatype": datatype, "shape": [1, 2], "parameters": {"binary_data_size": array.nbytes},
    }  # fmt: skip
    (output,) = json.loads(write_answer(answer, frozenset()).data)["outputs"]
    assert np.array(output["data"], dtype).tobytes() == array.tobytes()


HEAD = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":'
REFUSED = {
    "not JSON": (b"{", "not an inference request"),
    "deep": (HEAD + b"[" * 100_000, "inference request"),
    "deep data": (HEAD + b"[" * 90 + b"1,2" + b"]" * 90 + b"}]}", "not an array of numbers|not 2 elements"),
    "no inputs": (b"{}", "inputs"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_request_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        parse_call(data, None, plan(), 30.0)


WRONG = {
    "missing": ({"inputs": []}, "input 'x' .* is missing"),
    "unknown": (body(name="z"), "'z': the model has no such input; it takes x"),
    "twice": ({"inputs": body()["inputs"] * 2}, "given twice"),
    "other datatype": (body(datatype="INT8"), "datatype INT8, the model takes FP32"),
    "strings": (body(datatype="BYTES"), "'BYTES' cannot be used here"),
    "too few": (body(data=[1]), "does not have the 2 elements"),
    "too many": (body(data=[1, 2, 3]), "does not have the 2 elements"),
    "text": (body(data=["1", "2"]), "not an array of numbers"),
    "nothing": (body(data=[None, 2]), "not an array of numbers"),
    "ragged": (body(data=[[1], 2]), "not an array of numbers"),
    "no data": (body(data=None), "neither data nor binary_data_size"),
    "size without bytes": (body(data=None, parameters={"binary_data_size": 8}), "is not in the body"),
    "output": (body() | {"outputs": [{"name": "z"}]}, "'z': the model has no such output; it gives y"),
    "long id": (body() | {"id": "x" * 300}, "id: 300 characters"),
    "classification": (
        body() | {"outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        "classification",
    ),
    "shared memory": (body(parameters={"shared_memory_region": "r"}), "shared_memory_region"),
    "sequence": (body() | {"parameters": {"sequence_id": 7}}, "sequence"),
    "deadline": (body() | {"parameters": {"deadline_ms": 0}}, "'deadline_ms': give a number"),
    "long deadline": (body() | {"parameters": {"timeout": 10**12}}, "'timeout': give a number"),
    "priority": (body() | {"parameters": {"priority": "urgent"}}, "priority"),
    "path": (body() | {"parameters": {"path": "moon"}}, "give one of primary, alternative, local"),
    "flag": (body() | {"parameters": {"binary_data_output": 1}}, "give true or false"),
}


@pytest.mark.parametrize(("document", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_request_is_refused_with_the_field(document, message):
    with pytest.raises(InputError, match=message):
        parse(document)


def test_integers_stay_in_their_range():
    of = plan(inputs=(TensorSpec("x", (1, 2), "int8"),))
    with pytest.raises(TensorError, match="out of the range of INT8"):
        parse(body(datatype="INT8", data=[1, 128]), of=of)
    with pytest.raises(TensorError, match=r"numbers|elements of INT8"):
        parse(body(datatype="INT8", data=[1, 1.5]), of=of)


def test_bytes_behind_the_last_tensor_are_refused():
    with pytest.raises(InputError, match="3 bytes behind"):
        parse(body(), b"abc")
    with pytest.raises(InputError, match="of a body of"):
        parse_call(b"{}", 3, plan(), 30.0)
    of = plan(inputs=(TensorSpec("x", (1, 2), "bool"),))
    with pytest.raises(TensorError, match="BOOL is 0 or 1"):
        parse(body(datatype="BOOL", data=None, parameters={"binary_data_size": 2}), b"\x01\x02", of)


def test_parameters_say_when_how_and_by_whom():
    wishes = parse(
        body(), parameters={"timeout": 500_000, "priority": 1, "path": "local", "mine": "x"}
    ).call.wishes
    assert (wishes.deadline_s, wishes.priority, wishes.path) == (0.5, Priority.HIGH, "local")
    wishes = parse(body(), parameters={"deadline_ms": 250.0, "priority": "low"}).call.wishes
    assert (wishes.deadline_s, wishes.priority, wishes.path) == (0.25, Priority.LOW, "")


def test_outputs_say_for_themselves_whether_they_are_binary():
    asked = {"outputs": [{"name": "y", "parameters": {"binary_data": False}}]}
    assert parse(body(), parameters={"binary_data_output": True}).binary == {"y"}
    assert not parse(body() | asked, parameters={"binary_data_output": True}).binary


def test_json_does_not_write_what_is_not_finite():
    answer = Answer("m", "3", "", {"y": np.array([np.nan], np.float32)}, {})
    with pytest.raises(RequestError, match="not finite"):
        write_answer(answer, frozenset())
    assert write_answer(answer, frozenset("y")).head_bytes


JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.integers(), max_size=3)
TENSOR = st.fixed_dictionaries(
    {
        "name": st.just("x") | JSON,
        "shape": st.just([1, 2]) | JSON,
        "datatype": st.just("FP32") | JSON,
        "data": JSON,
    },
    optional={"parameters": JSON},
)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {"inputs": st.lists(TENSOR, max_size=2)}, optional={"id": JSON, "parameters": JSON, "outputs": JSON}
    )
)
def test_any_json_is_a_call_or_an_error_of_ours(document):
    with suppress(CollabError):
        assert parse(document).call.inputs["x"].shape[-1] == 2
