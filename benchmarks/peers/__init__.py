"""Other ways to serve the same model, each a program of its own."""
