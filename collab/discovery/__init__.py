"""How nodes find each other: several discoveries at once, merged into one roster."""
