"""The atlas: the catalogue of papers with their registered claims, and the results recorded for them."""
