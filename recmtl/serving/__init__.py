"""Exported models: how they are written, read, scored and served."""
