"""The REST interface as OpenAPI 3.1."""

from __future__ import annotations

from typing import Any, Final

from collab.serving.datatypes import TO_NUMPY

_TENSOR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string", "enum": list(TO_NUMPY)},
        "parameters": {"$ref": "#/components/schemas/Parameters"},
        "data": {"type": "array"},
    },
}
_SCHEMAS: Final[dict[str, Any]] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    },
    "Parameters": {
        "type": "object",
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    },
    "Tensor": _TENSOR,
    "InferenceRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "maxLength": 256},
            "parameters": {"$ref": "#/components/schemas/Parameters"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string"},
                        "parameters": {"$ref": "#/components/schemas/Parameters"},
                    },
                },
            },
        },
    },
    "InferenceResponse": {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"$ref": "#/components/schemas/Parameters"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
    "Model": {
        "type": "object",
        "required": ["name", "platform", "inputs", "outputs"],
        "properties": {
            "name": {"type": "string"},
            "versions": {"type": "array", "items": {"type": "string"}},
            "platform": {"type": "string"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
    "Server": {
        "type": "object",
        "required": ["name", "version", "extensions"],
        "properties": {
            "name": {"type": "string"},
            "version": {"type": "string"},
            "extensions": {"type": "array", "items": {"type": "string"}},
        },
    },
    "Health": {
        "type": "object",
        "properties": {
            "live": {"type": "boolean"},
            "ready": {"type": "boolean"},
            "name": {"type": "string"},
        },
    },
    "Index": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name", "version", "state", "reason"],
            "properties": {part: {"type": "string"} for part in ("name", "version", "state", "reason")},
        },
    },
    "Config": {
        "type": "object",
        "required": ["name", "platform", "max_batch_size", "input", "output"],
        "properties": {
            "name": {"type": "string"},
            "platform": {"type": "string"},
            "max_batch_size": {"type": "integer"},
            "input": {"type": "array", "items": {"type": "object"}},
            "output": {"type": "array", "items": {"type": "object"}},
        },
    },
    "Statistics": {
        "type": "object",
        "required": ["model_stats"],
        "properties": {
            "model_stats": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "version", "inference_count", "execution_count", "inference_stats"],
                },
            },
        },
    },
    "Nothing": {"type": "object"},
    "FileAnswers": {
        "type": "object",
        "required": ["model_name", "answers"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "answers": {"type": "array", "items": {"type": "object"}},
        },
    },
}

_REFUSALS: Final = {
    "400": "the request is wrong; the message names the field",
    "401": "no key, or one that is not known",
    "403": "the key's role may not do this, or a page of another site asks",
    "404": "no such model, version or path",
    "408": "the body did not come in time",
    "413": "over a bound",
    "415": "a content type that is not taken here",
    "429": "too many requests of this client",
    "500": "a stage failed",
    "503": "nodes are lost, no credit is free, or not ready: try again later",
    "504": "the deadline passed",
}


def _body(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _operation(what: str, answer: str, given: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "summary": what,
        "responses": {
            "200": {"description": "done", "content": _body(answer)},
            **{
                status: {"description": text, "content": _body("Error")} for status, text in _REFUSALS.items()
            },
        },
        **more,
    }
    if given is not None:
        told["requestBody"] = given
    return told


def _parameter(name: str, where: str = "path", kind: str = "string") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": kind}
    if kind == "integer":
        schema |= {"minimum": 1, "maximum": 9999}
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def describe(version: str) -> dict[str, Any]:
    """The whole description of the server's version; paths are those of `collab.serving.rest`."""
    infer = {"required": True, "content": _body("InferenceRequest")}
    ready = _operation("whether every plan can be asked", "Health")
    ready["responses"]["503"]["content"] = _body("Health")
    paths: dict[str, Any] = {
        "/v2": {"get": _operation("what this server is", "Server")},
        "/v2/health/live": {"get": _operation("whether this process answers", "Health", security=[])},
        "/v2/health/ready": {"get": ready | {"security": []}},
        "/v2/repository/index": {
            "post": _operation(
                "the plans of this server",
                "Index",
                {
                    "content": {
                        "application/json": {
                            "schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}
                        }
                    }
                },
            )
        },
        "/v2/models/stats": {"get": _operation("what every plan was asked so far", "Statistics")},
        "/openapi.json": {"get": _operation("this description", "Nothing")},
        "/v1/files/{name}": {
            "parameters": [_parameter("name")],
            "post": _operation(
                "a picture or a table, as the model's package takes it",
                "FileAnswers",
                {
                    "required": True,
                    "content": {
                        kind: {"schema": {"type": "string", "format": "binary"}}
                        for kind in ("application/octet-stream", "text/csv", "image/png")
                    },
                },
                parameters=[_parameter("top", "query", "integer")],
            ),
        },
    }
    for verb, what in (("load", "offer a plan as its file says now"), ("unload", "offer a plan no longer")):
        paths[f"/v2/repository/models/{{name}}/{verb}"] = {
            "parameters": [_parameter("name")],
            "post": _operation(what, "Nothing", {"content": _body("Nothing")}),
        }
    for prefix, names in (
        ("/v2/models/{name}", ("name",)),
        ("/v2/models/{name}/versions/{version}", ("name", "version")),
    ):
        path = {"parameters": [_parameter(name) for name in names]}
        model_ready = _operation("whether a plan can be asked", "Health")
        model_ready["responses"]["503"]["content"] = _body("Health")
        paths[prefix] = path | {"get": _operation("a plan's inputs and outputs", "Model")}
        paths[f"{prefix}/ready"] = path | {"get": model_ready}
        paths[f"{prefix}/config"] = path | {"get": _operation("a plan as Triton's configuration", "Config")}
        paths[f"{prefix}/stats"] = path | {"get": _operation("what a plan was asked so far", "Statistics")}
        paths[f"{prefix}/infer"] = path | {
            "post": _operation("one call of a plan", "InferenceResponse", infer)
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "collab serve",
            "version": version,
            "description": "The Open Inference Protocol, version 2, over running plans.",
        },
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{}, {"bearer": []}, {"header": []}],
    }
