"""The worker: ``python worker.py``."""

from __future__ import annotations

if __name__ == "__main__":
    from rindle.cli.worker import main

    main()
