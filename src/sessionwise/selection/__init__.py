"""Which sessions: rankings of the pool for a held-out session."""
