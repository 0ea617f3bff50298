"""The OCI formats: digests, layers, images, layouts and their check. No PyTorch, no network."""
