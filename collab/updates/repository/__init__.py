"""Publishing releases: keys, roles and the folder that is served."""
