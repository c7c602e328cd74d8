"""A classifier as an HTTP server with a page, that answers what `predict` answers and stays up."""
