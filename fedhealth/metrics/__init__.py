"""What noisy counts say: estimates with intervals that include the noise, or nothing."""
