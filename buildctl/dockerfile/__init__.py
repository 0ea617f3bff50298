"""Dockerfiles: rendered from templates, parsed into instructions that know their line."""
