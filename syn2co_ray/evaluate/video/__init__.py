"""Video object segmentation by label propagation, as DAVIS is measured with frozen features."""
