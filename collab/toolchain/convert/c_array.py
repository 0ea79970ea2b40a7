"""A ``.tflite`` as a C array, for firmware that has no files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from collab.errors import ModelError, UsageError

SUFFIXES: Final = (".c", ".cc", ".cpp")
PER_LINE: Final = 16
_NUMBER: Final = re.compile(rb"0x([0-9a-f]{2}),")


def variable_name(out: Path) -> str:
    """The array's name, after its file; raises `UsageError` for a file that no compiler takes."""
    if out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out}: name a file that ends in {', '.join(SUFFIXES)}; a .h goes beside it")
    return "g_" + re.sub(r"\W", "_", out.stem, flags=re.ASCII)


def c_source(data: bytes, name: str, header: str) -> str:
    """The array, aligned as LiteRT reads it, and its length."""
    lines = [
        "  " + " ".join(f"0x{byte:02x}," for byte in data[at : at + PER_LINE])
        for at in range(0, len(data), PER_LINE)
    ]
    body = "\n".join(lines)
    return (
        f'#include "{header}"\n\n'
        "#ifdef __cplusplus\n#define COLLAB_ALIGN alignas(16)\n#else\n"
        "#define COLLAB_ALIGN _Alignas(16)\n#endif\n\n"
        f"COLLAB_ALIGN const unsigned char {name}[] = {{\n{body}\n}};\n"
        f"const unsigned int {name}_len = {len(data)};\n"
    )


def c_header(name: str, sha256: str) -> str:
    """Declares both, for C and C++."""
    guard = f"{name.upper()}_H_"
    return (
        f"// A .tflite model, sha256 {sha256}.\n"
        f"#ifndef {guard}\n#define {guard}\n\n"
        '#ifdef __cplusplus\nextern "C" {\n#endif\n\n'
        f"extern const unsigned char {name}[];\nextern const unsigned int {name}_len;\n\n"
        "#ifdef __cplusplus\n}\n#endif\n\n#endif\n"
    )


def array_bytes(source: bytes) -> bytes:
    """The bytes that an array of `c_source` stands for."""
    start, stop = source.find(b"= {"), source.rfind(b"};")
    if start < 0 or stop < start:
        raise ModelError("the C file holds no array: convert anew")
    return bytes.fromhex(b"".join(_NUMBER.findall(source[start:stop])).decode())
