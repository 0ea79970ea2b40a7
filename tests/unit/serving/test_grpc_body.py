"""Messages of the gRPC protocol."""

from __future__ import annotations

import numpy as np
import pytest

from collab.codec.pb import grpc_service_pb2 as pb
from collab.core.tensor import TensorSpec
from collab.errors import InputError
from collab.serving.datatypes import TO_NUMPY
from collab.serving.grpc_body import _CONTENTS, parse_request, write_response
from collab.serving.inference import Answer
from tests.unit.serving.stand_in import plan


def message(array, datatype: str, *, raw: bool) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    if raw:
        request.raw_input_contents.append(array.tobytes())
    else:
        getattr(tensor.contents, _CONTENTS[array.dtype.name]).extend(array.ravel().tolist())
    return request


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("datatype", TO_NUMPY)
def test_every_datatype_goes_in_raw_and_typed(datatype, raw):
    array = np.array([[1, 0]]).astype(TO_NUMPY[datatype])
    of = plan(inputs=(TensorSpec("x", (1, 2), array.dtype.name),))
    if datatype == "FP16" and not raw:
        tensor = message(array, datatype, raw=True)
        del tensor.raw_input_contents[:]
        with pytest.raises(InputError, match="raw_input_contents alone"):
            parse_request(tensor, of, 30.0)
        return
    given = parse_request(message(array, datatype, raw=raw), of, 30.0).inputs["x"]
    assert given.dtype == array.dtype
    assert given.tobytes() == array.tobytes()


def test_what_does_not_fit_is_refused():
    ones = np.ones((1, 2), np.float32)
    short = message(ones, "FP32", raw=False)
    del short.inputs[0].contents.fp32_contents[:1]
    with pytest.raises(InputError, match="1 elements in fp32_contents"):
        parse_request(short, plan(), 30.0)
    spare = message(ones, "FP32", raw=True)
    spare.raw_input_contents.append(b"")
    with pytest.raises(InputError, match="2 for 1 inputs"):
        parse_request(spare, plan(), 30.0)
    large = message(np.array([[1, 300]], np.int32), "INT8", raw=False)
    with pytest.raises(InputError, match="out of the range of INT8"):
        parse_request(large, plan(inputs=(TensorSpec("x", (1, 2), "int8"),)), 30.0)
    wrong = message(ones, "FP64", raw=False)
    with pytest.raises(InputError, match="the model takes FP32"):
        parse_request(wrong, plan(), 30.0)


def test_an_answer_has_raw_contents_and_typed_parameters():
    answer = Answer(
        "m", "3", "7", {"y": np.ones((1, 2), np.float32)}, {"path": "primary", "epoch": 3, "last": True}
    )
    told = write_response(answer)
    assert (told.model_name, told.model_version, told.id) == ("m", "3", "7")
    assert told.raw_output_contents[0] == answer.outputs["y"].tobytes()
    assert told.parameters["path"].string_param == "primary"
    assert told.parameters["epoch"].int64_param == 3
    assert told.parameters["last"].bool_param
