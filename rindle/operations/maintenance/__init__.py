"""Maintenance sweeps: one file per sweep, the frame in :mod:`.sweep`, runs with Temporal in :mod:`.runs`."""
