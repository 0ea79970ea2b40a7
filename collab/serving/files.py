"""Pictures and tables as requests: the preprocessing of the plan's packaged model, labels in the answer."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from numpy.typing import NDArray

from collab.codec.tensors import Array
from collab.core.plan import Plan
from collab.core.preprocessing import ImageSteps, Preprocessing
from collab.core.token import Priority
from collab.errors import CollabError, InputError, LimitExceeded
from collab.runtime.preprocessing.images import decode_pixels
from collab.runtime.preprocessing.raw import raw_inputs
from collab.runtime.preprocessing.scaling import Floats, pixels_to_floats
from collab.serving.batch import MAX_BATCH
from collab.serving.datatypes import datatype_of
from collab.serving.offers import Offer
from collab.serving.upload import Upload, read_upload
from collab.updates.bundle.answers import best, label_port
from collab.updates.bundle.inputs import check_input, check_plan, model_inputs
from collab.updates.bundle.read import Bundle, is_bundle, open_bundle

MAX_AT_ONCE: Final = 2
"""Files that are decoded at a time: a small one can become a large picture."""
_ANY: Final = ("", "application/octet-stream")
_TABLES: Final = ("text/csv", "application/csv", "text/plain")


class _Package(NamedTuple):
    bundle: Bundle
    steps: Preprocessing
    labels: tuple[str, ...]


class FileDesk:
    """Answers files; ``candidates`` are by plan the files that may be its packaged model."""

    def __init__(self, candidates: Mapping[str, Sequence[Path]]) -> None:
        self._candidates = candidates
        self._packages: dict[str, tuple[Plan, _Package]] = {}
        self._free = asyncio.Semaphore(MAX_AT_ONCE)

    async def ask(
        self, offer: Offer, body: bytes, content_type: str, count: int, deadline_s: float
    ) -> dict[str, Any]:
        """The answers to all examples of a file, with the ``count`` best labels of each.

        Raises `InputError` for a file that the preprocessing does not take, or where the plan has no
        packaged model with one, `LimitExceeded` for more than `MAX_BATCH` examples, and what asking raises.
        """
        upload = read_upload(body, content_type)
        await self._free.acquire()
        # A thread goes on when its client goes away, and is one of those that decode until it ends.
        package, names, requests = await asyncio.shield(
            asyncio.ensure_future(self._decoded(offer.plan, upload))
        )
        with offer.counted():
            results = await asyncio.gather(
                *(offer.run(one, deadline_s, Priority.NORMAL, "") for one in requests), return_exceptions=True
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        answers = [
            _told(name, result.outputs, package, count)
            for name, result in zip(names, results, strict=True)
            if not isinstance(result, BaseException)
        ]
        return {"model_name": offer.plan.name, "model_version": offer.version, "answers": answers}

    async def _decoded(
        self, plan: Plan, upload: Upload
    ) -> tuple[_Package, list[str], list[dict[str, Array]]]:
        """What to ask for a file; frees the place that its caller took."""
        try:
            package = await asyncio.to_thread(self._package, plan)
            return package, *await asyncio.to_thread(_examples, upload, package)
        finally:
            self._free.release()

    def _package(self, plan: Plan) -> _Package:
        known = self._packages.get(plan.name)
        if known is not None and known[0] is plan:
            return known[1]
        found = next((path for path in self._candidates.get(plan.name, ()) if is_bundle(path)), None)
        if found is None:
            raise InputError(
                f"model {plan.name!r}: files need its packaged model; start with --bundle M.collab"
            )
        bundle = open_bundle(found)
        check_plan(bundle, plan)
        steps = bundle.preprocessing()
        if steps is None:
            raise InputError(f"model {plan.name!r}: its package has no preprocessing for files; send tensors")
        check_input(bundle.manifest.inputs, steps)
        package = _Package(bundle, steps, bundle.labels())
        self._packages[plan.name] = (plan, package)
        return package


def _examples(upload: Upload, package: _Package) -> tuple[list[str], list[dict[str, Array]]]:
    port = package.bundle.manifest.inputs[0]
    names: list[str] = []
    requests: list[dict[str, Array]] = []
    for name, x in _read(upload, package.steps):
        if len(names) >= MAX_BATCH:
            raise LimitExceeded(f"{upload.name}: over {MAX_BATCH} examples; send fewer at a time")
        names.append(name)
        requests.append({port.name: model_inputs(port, x[None])[0]})
    if not requests:
        raise InputError(f"{upload.name}: holds no example")
    return names, requests


def _read(upload: Upload, preprocessing: Preprocessing) -> list[tuple[str, Floats]]:
    steps = preprocessing.steps
    if isinstance(steps, ImageSteps):
        if not (upload.kind in _ANY or upload.kind.startswith("image/")):
            raise InputError(f"{upload.name}: is {upload.kind[:80]!r}; this model takes a picture")
        return [(upload.name, pixels_to_floats(decode_pixels(upload.data, steps, upload.name), steps))]
    if upload.kind not in (*_ANY, *_TABLES):
        raise InputError(f"{upload.name}: is {upload.kind[:80]!r}; this model takes text/csv")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        file.write_bytes(upload.data)
        try:
            found: list[tuple[str, Floats]] = []
            for name, x in raw_inputs(file, preprocessing):
                found.append((name.replace(str(file), upload.name), x))
                if len(found) > MAX_BATCH:
                    break
            return found
        except CollabError as error:
            raise type(error)(str(error).replace(str(file), upload.name)) from error


def _told(name: str, outputs: Mapping[str, NDArray[Any]], package: _Package, count: int) -> dict[str, Any]:
    told: dict[str, Any] = {"input": name}
    if package.labels:
        port = label_port(package.bundle.manifest.outputs, len(package.labels))
        told["top"] = [one._asdict() for one in best(outputs[port.name], port, package.labels, count)]
    told["outputs"] = [
        {
            "name": output,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
            "data": array.ravel().tolist(),
        }
        for output, array in outputs.items()
    ]
    return told
