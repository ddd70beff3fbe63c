"""Images from diffusion models: planned by slot, made by elastic actors, published as whole shards."""
