"""Making and preparing models; needs the ``toolchain`` extra.

TensorFlow is imported inside functions only, so that importing a module of this
package costs nothing and works on a device.
"""

from __future__ import annotations
