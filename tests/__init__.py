"""Rindle's tests; a package so that ``tests.servers`` always means ours."""
