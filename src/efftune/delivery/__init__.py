"""Files of a classifier for the programs that are going to use it, each proved on its photos."""
