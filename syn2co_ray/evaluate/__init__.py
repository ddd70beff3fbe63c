"""What frozen features are worth: k-NN and linear probe. The protocols know only tensors, never images."""
