"""Recipes: options as files, presets, trust, validation, environment."""
