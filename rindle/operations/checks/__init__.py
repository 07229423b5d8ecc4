"""The checks of ``doctor``: one file for each thing that is examined; each owns its limits and its advice."""
