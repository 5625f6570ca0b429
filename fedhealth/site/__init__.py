"""A hospital: the gate, which has the data and no network, and the node, which has the network and no data."""
