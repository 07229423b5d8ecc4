"""The checks of ``doctor``: one module per subject; each has its own limits and fixes."""
