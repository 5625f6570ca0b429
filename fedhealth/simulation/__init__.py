"""A federation in one process: the same gates, ledgers, accounting and Flower strategies, without a network."""
