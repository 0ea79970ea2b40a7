"""Steps that run in a process of their own.

Importing tensorflow-model-optimization turns ``tf.keras`` into Keras 2, and some converters
do the like, so each such step is ``python -m collab.toolchain.steps NAME FOLDER``: settings come
in ``FOLDER/request.json``, files lie in that folder, values go into ``FOLDER/result.json``.
"""

from __future__ import annotations

from collab.toolchain.steps.runner import Result, run_step
from collab.toolchain.steps.work import Work

__all__ = ["Result", "Work", "run_step"]
