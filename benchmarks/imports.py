"""How long loading every public name takes in a fresh interpreter, and which heavy modules that drags in."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from benchmarks import machine
from benchmarks.report import Figure, Sample

ROUNDS = 9
BUDGET_SECONDS = 0.7
#: Modules the package must not load: they belong to extras or to the edge.
HEAVY = (
    "fastapi",
    "starlette",
    "boto3",
    "botocore",
    "pyvips",
    "pi_heif",
    "google.cloud",
    "mux_python",
    "magic",
    "pebble",
)
#: A name is loaded when it is first used; this uses them all.
_EVERYTHING = "from rindle import *"
#: What the package is built on; these alone take most of the time.
_DEPENDENCIES = "import sqlalchemy.ext.asyncio, sqlalchemy.orm, temporalio.client, temporalio.worker, pydantic_settings"

_PROGRAM = """
import json, sys, time
began = time.perf_counter()
{statement}
seconds = time.perf_counter() - began
print(json.dumps([seconds, [name for name in {heavy!r} if name in sys.modules]]))
"""


async def measure() -> list[Figure]:
    """Measure the package and, beside it, the libraries it is built on."""
    await machine.wait_for_quiet()
    found = await asyncio.to_thread(lambda: [(_seconds(_EVERYTHING), _seconds(_DEPENDENCIES)) for _ in range(ROUNDS)])
    ours = Sample.of([seconds for (seconds, _), _ in found])
    loaded = found[0][0][1]
    return [
        Figure(
            _EVERYTHING,
            ours,
            "s",
            f"under {BUDGET_SECONDS:g} s, nothing heavy",
            ours.median < BUDGET_SECONDS and not loaded,
            note=f"loads {', '.join(loaded)}" if loaded else "loads no FastAPI, boto3, pyvips, magic",
        ),
        Figure("its dependencies alone", Sample.of([seconds for _, (seconds, _) in found]), "s", is_peer=True),
    ]


def _seconds(statement: str) -> tuple[float, list[str]]:
    program = _PROGRAM.format(statement=statement, heavy=HEAVY)
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, loaded = json.loads(printed.stdout)
    return seconds, loaded
