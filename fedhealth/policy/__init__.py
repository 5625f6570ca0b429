"""What a hospital says of itself (`site.toml`) and what it allows (`policy.toml`)."""
