"""Loaded by every Python of an environment under test: says at the end from where it took its modules.

One JSON file for each process in the folder ``WITNESS_RECORDS``: its arguments, the environment it ran in, and the file
of each package that it loaded.
"""

import atexit
import json
import os
import sys
import uuid
from pathlib import Path


def _tell() -> None:
    loaded = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if "." not in name}
    told = {
        "arguments": sys.argv,
        "prefix": sys.prefix,
        "modules": {name: file for name, file in loaded.items() if file},
    }
    path = Path(os.environ["WITNESS_RECORDS"]) / f"{uuid.uuid4().hex}.json"
    path.write_text(json.dumps(told), encoding="utf-8")


if "WITNESS_RECORDS" in os.environ:
    atexit.register(_tell)
