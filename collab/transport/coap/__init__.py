"""Links over CoAP: reliable (RFC 8323, TCP and TLS) and windowed blocks over UDP (RFC 9177)."""
