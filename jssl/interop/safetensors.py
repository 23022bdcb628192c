"""Files of the safetensors format: eight bytes that hold the length of a header, the header as JSON, the arrays."""

import json
import re

import jax.numpy as jnp
import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": jnp.bfloat16}


def read_safetensors(path, pattern=""):
    """{name: float32 array} of the arrays of floating-point numbers whose names begin with `pattern`, a regex.

    Raises ValueError, one line, where the file is of another format or damaged.
    """
    try:
        data = np.memmap(path, np.uint8, "r")
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:start].tobytes())
        header = {name: entry for name, entry in header.items() if entry.get("dtype") in DTYPES}
        return {name: _array(data[start:], **header[name]) for name in header if re.match(pattern, name)}
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path} cannot be read; expected a whole file of the safetensors format") from None


def _array(data, dtype, shape, data_offsets):
    begin, end = data_offsets
    return np.array(data[begin:end].view(DTYPES[dtype]).reshape(shape), np.float32)
