"""Self-supervised training of vision models on Ray, with synthesized hard negatives."""

from .ray_environment import keep_from_proxies as _keep_from_proxies
from .ray_environment import set_defaults as _set_defaults

__version__ = "0.1.0"

_set_defaults()
_keep_from_proxies()
