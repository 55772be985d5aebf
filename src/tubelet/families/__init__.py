"""One module per upstream: configurations, key tables and pixel recipes, as data. `catalogue.find` says which family
a checkpoint belongs to."""
