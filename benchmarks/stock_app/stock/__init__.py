"""A Flower app as a new user writes one: torch in the ClientApp, no privacy, no border."""
