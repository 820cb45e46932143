"""One module a file format: each turns a recording file into a Session."""
