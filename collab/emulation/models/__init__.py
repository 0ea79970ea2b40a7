"""The parts of a link model, and their composition; pure.

Times are in µs, rates in Mbit/s, which are bits per µs.
"""
