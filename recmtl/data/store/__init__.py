"""The prepared dataset on disk: its files, its rows, and the cache."""
