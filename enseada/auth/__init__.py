"""Who may do what. Everything else in the code asks here, and decides nothing by itself."""
