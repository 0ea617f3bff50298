"""A client of the OCI distribution specification: no daemon, only missing blobs move, errors say of which kind."""
