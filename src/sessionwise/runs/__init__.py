"""Runs, without torch: identity (``spec``), verified storage (``store``, ``checkpoints``), execution (``launch``)."""
