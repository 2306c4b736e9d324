"""The files of a run: manifest, journal, and the data frame made of them."""
