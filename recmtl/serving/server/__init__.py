"""Scores over HTTP: the application, its workers, and the model that they share."""
