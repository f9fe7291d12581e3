"""The generated part of the documentation: pages from docstrings, parsers and recorded results."""
