"""The datacentre: asks gates through the link, combines releases with Flower, writes the evidence."""
