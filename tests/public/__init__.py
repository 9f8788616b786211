"""One small input per kind of fault in public reports, each with its source."""
