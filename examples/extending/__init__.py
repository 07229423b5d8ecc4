"""One small plug-in of each kind, and an application that uses them; described in docs/extending.md."""
