"""How a model is judged, by the kind of the endpoint: one module each, and a table of them."""
