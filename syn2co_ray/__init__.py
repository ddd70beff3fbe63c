"""Self-supervised training of vision models on Ray, with synthesized hard negatives."""

__version__ = "0.1.0"
