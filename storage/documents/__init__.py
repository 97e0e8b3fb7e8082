"""Document stores: small JSON documents by id, with CouchDB's promises and no more."""
