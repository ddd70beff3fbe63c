"""Self-supervised training of vision models on Ray, with synthesized hard negatives."""

from .ray_environment import set_defaults as _set_defaults

__version__ = "0.1.0"

_set_defaults()
