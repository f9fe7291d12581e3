"""Generated rows whose best possible AUC is known."""
