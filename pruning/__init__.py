"""Pruning for Keras 3: nothing here yet; the ladder in docs/design.md says what it may import."""
