"""What a compliance officer asks of a site, offline: its budget, a bundle for the regulator, an empirical audit."""
