"""Recordings: sessions, their file formats, the prepared store, splits. Nothing here imports torch."""
