"""The OCI distribution protocol (distribution-spec 1.1 and what is on its main branch), as pure functions and machines."""
