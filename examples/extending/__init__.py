"""One small plug-in of each kind, and an application that uses them; explained in docs/extending.md."""
