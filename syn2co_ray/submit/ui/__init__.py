"""Pages for people: what runs, searches and data sets there are in some storages. Read only."""
