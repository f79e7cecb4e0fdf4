"""semantic_cache."""
