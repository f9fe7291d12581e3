"""The documentation site: its pages, and the code that generates some of them."""
