"""Typed job specs: YAML and dotted overrides in, every fault out at once. Imports no torch, no ray."""
