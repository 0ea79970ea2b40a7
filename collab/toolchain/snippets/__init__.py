"""Source code that runs a packaged model in an app or on a microcontroller."""
