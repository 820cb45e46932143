"""Whole experiments: the demo, and (later) scaling studies and recommendations."""
