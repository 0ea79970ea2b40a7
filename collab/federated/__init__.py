"""Federated averaging: devices that run a model together learn together; data stays where it is."""
