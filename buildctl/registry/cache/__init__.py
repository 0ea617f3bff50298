"""A shared layer cache in an OCI repository: what is there, who says so, reading it and writing it.

Start with `entry`: the manifest of a cached layer or of all layers of an image, with a signed statement in it. `read`
looks keys up and believes only what it can check; `write` stores what was made. Both know nothing of recipes: a key is
a text, and whoever calls has made sure that the same key means the same layer.
"""
