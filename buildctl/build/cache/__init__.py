"""Layers that need not be made here, for builds: what the shared cache has, and what goes into it.

Start with `session`: before a build it asks the cache, gives the engine a `LayerStore` that knows the answers, and
writes afterwards what was made. `settings` are the options, `inputs` hashes what a signed layer is made from,
`overlaps` checks wheels against each other, also without them; `verify` and `prune` are commands.
"""
