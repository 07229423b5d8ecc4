"""Test doubles and contract suites for applications and adapter authors; nothing in Rindle imports this package.

======================================  ==========================================================
:mod:`rindle.testing.flaky`             a store that fails on command
:mod:`rindle.testing.storage_contract`  what every store must do, as tests to inherit (needs pytest)
:mod:`rindle.testing.plugin_contracts`  the same for scanners, probes, analyzers, processors, authorizers
======================================  ==========================================================
"""
