"""``python -m rindle.cli``: the command where no console script is installed."""

from __future__ import annotations

from rindle.cli import main

main()
