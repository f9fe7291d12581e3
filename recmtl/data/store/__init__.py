"""The prepared dataset on disk: shards, manifest, validation, cache."""
