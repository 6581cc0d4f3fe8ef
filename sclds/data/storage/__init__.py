"""Shards: where they lie, what is in them, and how their members are read."""
