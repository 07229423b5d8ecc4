"""The worker: ``python worker.py``."""

from __future__ import annotations

if __name__ == "__main__":  # images are decoded in child processes, which import this file again
    from rindle.cli.worker import main

    main()
