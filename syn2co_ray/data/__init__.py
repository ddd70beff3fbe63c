"""Where images come from: record, source readers, deterministic plan, stream. Imports no torch."""
