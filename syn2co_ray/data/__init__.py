"""Where images come from: the record, source readers, the deterministic plan, the stream. Imports no torch."""
