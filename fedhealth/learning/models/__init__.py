"""What can be fitted, by the kind of model: one module each, and a table of them."""
