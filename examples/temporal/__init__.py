"""Ways to connect to Temporal, and workers of the application's own; described in docs/temporal.md."""
