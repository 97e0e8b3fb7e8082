"""What of HTTP/1.1 is read before, beside and instead of h11, as pure functions and machines."""
