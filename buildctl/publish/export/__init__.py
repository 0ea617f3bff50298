"""Images where there is no registry: into a file or folder for Docker, podman, clusters or an air-gapped site.

`parcel` finds what is carried (images, indexes, the documents attached to them), `export` writes it, `deliver` brings
an OCI archive from the other side into a registry, with the same digests.
"""
