"""A wheel to the entries of a layer, laid out as an installer would, with every check of RECORD and of the zip.

Start with `wheel.read_wheel` (what is in it, where it goes) and `layer` (its entries, in order).
"""
