"""One HTML page for a run, and its result table. Reads the run folder; imports no torch, no ray."""
