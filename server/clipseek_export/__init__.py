"""The exporter: turns a model's weights into a bundle that the server can serve. The only part that needs torch."""
