"""What runs an image: Docker, a sandbox of Linux namespaces, or the Python of a native environment.

Start with `api.Runtime` and `api.Session`, the two protocols; `docker`, `sandbox/` and `native` implement them,
`choose.RUNTIMES` are those that images are tested in.

May import: lock and whatever lock may.
"""
