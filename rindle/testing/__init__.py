"""Test doubles and contract suites for applications and adapter authors; nothing in Rindle imports this package.

The suites are tests to inherit, and need pytest.

========================================  ==========================================================
:mod:`rindle.testing.flaky`               a store that fails on command
:mod:`rindle.testing.storage_contract`    what every store must do
:mod:`rindle.testing.storage_abilities`   what its optional abilities must do
:mod:`rindle.testing.streaming_contract`  the same for providers of streaming
:mod:`rindle.testing.plugin_contracts`    the same for scanners, probes, analyzers, processors, authorizers
========================================  ==========================================================
"""
