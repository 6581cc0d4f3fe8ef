"""What losses over all pairs of two modalities' rows share: the task table, products of tiles, blocks of dS."""
