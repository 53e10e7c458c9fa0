"""Files of customers: read in blocks, every cell checked, reported on; wherever they lie."""
