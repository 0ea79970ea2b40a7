"""From costs to plans; pure functions over mappings."""
