"""The budgets of the design, each measured beside its peer in the same run: ``python -m benchmarks`` (``make bench``).

Speed is measured here and never asserted by tests: a number depends on the machine, its neighbours and the minute.
"""
