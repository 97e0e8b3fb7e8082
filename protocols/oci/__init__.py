"""The OCI distribution protocol (distribution-spec 1.1 and its main branch), as pure functions and machines."""
