"""The only door to files: atomic writes, hashing, guarded readers. Nothing here imports torch."""
