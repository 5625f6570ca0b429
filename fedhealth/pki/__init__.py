"""Who is who: the federation's own certificate authority, TLS identities and Ed25519 signing keys."""
