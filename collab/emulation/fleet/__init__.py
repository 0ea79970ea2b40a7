"""Federated runs with thousands of clients in one place: the real machines and trainers, no links."""
