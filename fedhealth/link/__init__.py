"""The border: one outbound gRPC stream per site, mutual TLS 1.3, that carries named services as bytes."""
