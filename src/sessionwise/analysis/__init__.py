"""Statistics, tables, figures and the report: pure functions over results; nothing here needs torch."""
