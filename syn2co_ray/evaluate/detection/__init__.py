"""Object detection and instance segmentation: annotations, networks on our backbones, AP, a sheet."""
