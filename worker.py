"""The worker: settings, then adapters, then task queues until it is told to stop (``rindle.cli.worker``)."""

from __future__ import annotations

if __name__ == "__main__":
    from rindle.cli.worker import main

    main()
